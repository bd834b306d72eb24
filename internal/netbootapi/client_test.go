// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// newClient returns a client of a server that answers with handle.
func newClient(t *testing.T, o ClientOptions, handle http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(handle)
	t.Cleanup(server.Close)
	o.Address = server.Listener.Addr().String()
	o.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The bytes whose digests the manager knows are those that are sent.
func TestClientSendsBytesAndEpoch(t *testing.T) {
	type sent struct{ Method, Path, Epoch, Body string }
	var got []sent
	handle := func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, sent{r.Method, r.URL.Path, r.Header.Get(HeaderEpoch), string(raw)})
		w.WriteHeader(http.StatusNoContent)
	}
	c := newClient(t, ClientOptions{Epoch: 7}, handle)
	config := valid().Encode()
	install, _ := validMachines()
	entry := NewEntry(&install.Content, install.Control)
	if err := errors.Join(
		c.PutServer(t.Context(), config), c.PutMachine(t.Context(), "u1", entry), c.DeleteMachine(t.Context(), "u1"),
		newClient(t, ClientOptions{}, handle).DeleteMachine(t.Context(), "u2"),
	); err != nil {
		t.Fatal(err)
	}
	want := []sent{
		{"PUT", "/v1/server", "7", string(config)},
		{"PUT", "/v1/machines/u1", "7", string(entry.Encode())},
		{"DELETE", "/v1/machines/u1", "7", ""},
		{"DELETE", "/v1/machines/u2", "", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestClientDistinguishesErrors(t *testing.T) {
	var reply ErrorReply
	status := http.StatusConflict
	c := newClient(t, ClientOptions{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(reply)
	})
	for kind, known := range ErrorKinds {
		reply = ErrorReply{Kind: kind, Message: "the reason"}
		status = known.Status
		err := c.PutMachine(t.Context(), "m", NewEntry(nil, Control{}))
		if !errors.Is(err, known.Err) {
			t.Errorf("%s: got error %v, want one that wraps %q", kind, err, known.Err)
		}
		if kind != "Missing" && !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%s: got error %v, want it to have the reason", kind, err)
		}
	}
	reply = ErrorReply{Kind: "Missing", Message: "missing", Missing: []Blob{validFile(), validText()}}
	var missing *MissingError
	if err := c.PutServer(t.Context(), nil); !errors.As(err, &missing) || !slices.Equal(missing.Blobs, reply.Missing) {
		t.Errorf("got error %v, want the missing blobs", err)
	}
	var refused *RefusedError
	reply, status = ErrorReply{Kind: "Later", Message: "the reason"}, http.StatusTeapot
	if err := c.PutServer(t.Context(), nil); !errors.As(err, &refused) || refused.Status != status || refused.Unwrap() != nil {
		t.Errorf("an unknown kind: got error %v, want one that wraps none", err)
	}
	reply = ErrorReply{Message: strings.Repeat("x", 2*maxReply)}
	if err := c.PutServer(t.Context(), nil); err == nil || len(err.Error()) > maxReply {
		t.Errorf("a large reply: got an error of %d bytes, want a short one", len(fmt.Sprint(err)))
	}
}

// A stream of events may be hostile.
func TestEvents(t *testing.T) {
	const event = `{"store":"a","event":{"sequence":2,"kind":"DHCP","name":"DISCOVER"}}` + "\n"
	type seen struct {
		store, name string
		lost        uint64
	}
	for name, c := range map[string]struct {
		text  string
		want  []seen
		error string
	}{
		"nothing":     {"", nil, "EOF"},
		"events":      {event + event, []seen{{"a", "DISCOVER", 0}, {"a", "DISCOVER", 0}}, "EOF"},
		"a heartbeat": {"{}\n" + event, []seen{{"a", "DISCOVER", 0}}, "EOF"},
		"lost":        {`{"lost":3}` + "\n", []seen{{"", "", 3}}, "EOF"},
		"a new store": {`{"store":"b"}` + "\n" + event, []seen{{"b", "", 0}, {"a", "DISCOVER", 0}}, "EOF"},
		"truncated":   {event + event[:20], []seen{{"a", "DISCOVER", 0}}, "unexpected EOF"},
		"not JSON":    {event + "x\n", []seen{{"a", "DISCOVER", 0}}, "decoding an event"},
		"large":       {`{"event":{"name":"` + strings.Repeat("x", MaxEventBytes) + `"}}` + "\n", nil, "longer than"},
		"endless":     {strings.Repeat("x", 2*MaxEventBytes), nil, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			var after string
			client := newClient(t, ClientOptions{}, func(w http.ResponseWriter, r *http.Request) {
				after = r.URL.Query().Get("after")
				_, _ = io.WriteString(w, c.text)
			})
			var got []seen
			err := client.Events(t.Context(), at(5), func(store string, e *Event, lost uint64) {
				s := seen{store: store, lost: lost}
				if e != nil {
					s.name = e.Name
				}
				got = append(got, s)
			})
			if err == nil || !strings.Contains(err.Error(), c.error) {
				t.Errorf("got error %v, want one that contains %q", err, c.error)
			}
			if !slices.Equal(got, c.want) || after != at(5).String() {
				t.Errorf("got %v after %q, want %v after %q", got, after, c.want, at(5))
			}
		})
	}
}

// A Watch continues at a position, and ends with the error of its caller.
func TestWatchEndsWithItsCallersError(t *testing.T) {
	var after string
	client := newClient(t, ClientOptions{}, func(w http.ResponseWriter, r *http.Request) {
		after = r.URL.Query().Get("after")
		_, _ = WriteUpdate(w, Update{Snapshot: true, Server: &State{Server: "d"}, Machines: machines(0, 3), Position: at(6)})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	var observed Observed
	err := client.Watch(t.Context(), at(5), func(u Update) error {
		if err := observed.Apply(u); err != nil {
			t.Error(err)
		}
		return errFull
	})
	if !errors.Is(err, errFull) || after != at(5).String() {
		t.Errorf("got error %v after %q, want %v after %q", err, after, errFull, at(5))
	}
	if len(observed.Machines) != 3 || observed.State.Server != "d" {
		t.Errorf("got %+v, want the state that was sent", observed)
	}
	once, err := client.Observe(t.Context())
	if err != nil || len(once.Machines) != 3 || once.Position != at(6) || after != (Position{}).String() {
		t.Errorf("Observe: got %+v, %v after %q; want the whole state", once, err, after)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Watch(ctx, at(5), func(Update) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: got error %v, want %v", err, context.Canceled)
	}
}
