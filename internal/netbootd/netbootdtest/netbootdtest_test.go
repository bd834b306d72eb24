// SPDX-License-Identifier: Apache-2.0

package netbootdtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

// TestMain ignores connections whose request was refused before its end: net/http waits
// half a second before it closes them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const patience = time.Minute

func blobOf(content []byte) netbootapi.Blob {
	sum := sha256.Sum256(content)
	return netbootapi.Blob{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

var textKey = []byte("0123456789abcdef")

// config returns a server configuration with a program.
func config(program []byte) *netbootapi.ServerConfig {
	return &netbootapi.ServerConfig{
		Network: netbootapi.Network{
			MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("10.9.0.1/16"),
			RangeStart: netip.MustParseAddr("10.9.200.100"), RangeEnd: netip.MustParseAddr("10.9.200.200"), LeaseSeconds: 600,
		},
		Programs: []netbootapi.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blobOf(program)}},
		TextKey:  textKey,
	}
}

// bare returns a server configuration without programs.
func bare() *netbootapi.ServerConfig {
	c := config(nil)
	c.Programs = nil
	return c
}

// machine returns the n-th machine, which boots from its disk.
func machine(n int) *netbootapi.Machine {
	return &netbootapi.Machine{
		UID: fmt.Sprintf("u%d", n),
		Content: netbootapi.Content{
			Name: fmt.Sprintf("target-%d", n), Hostname: fmt.Sprintf("target-%d", n), MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", 1+n/256, n%256),
			Address: netip.AddrFrom4([4]byte{10, 9, byte(1 + n/200), byte(10 + n%200)}), Architecture: "x86_64",
		},
		Control: netbootapi.Control{
			Boot: netbootapi.BootDisk, Attempt: "1", InstanceID: "i1", Token: fmt.Sprintf("0123456789012345678901-%d", n),
			SeedToken: fmt.Sprintf("seed-01234567890123456789-%d", n), PowerOn: "p1",
		},
	}
}

func entry(m *netbootapi.Machine) netbootapi.Entry { return netbootapi.NewEntry(&m.Content, m.Control) }

// putServer puts a configuration without programs.
func putServer(t *testing.T, c *netbootapi.Client) {
	t.Helper()
	if err := c.PutServer(t.Context(), bare().Encode()); err != nil {
		t.Fatal(err)
	}
}

func putMachine(t *testing.T, c *netbootapi.Client, m *netbootapi.Machine) {
	t.Helper()
	if err := c.PutMachine(t.Context(), m.UID, entry(m)); err != nil {
		t.Fatal(err)
	}
}

func upload(t *testing.T, c *netbootapi.Client, blob netbootapi.Blob, content string) {
	t.Helper()
	if err := c.UploadBlob(t.Context(), blob, strings.NewReader(content), nil); err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, o netbootapi.ClientOptions) *netbootapi.Client {
	t.Helper()
	c, err := netbootapi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPutServerAfterUpload(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	content := bytes.Repeat([]byte("kernel"), 100_000)
	want := config(content)

	var missing *netbootapi.MissingError
	if err := c.PutServer(t.Context(), want.Encode()); !errors.As(err, &missing) || !slices.Equal(missing.Blobs, []netbootapi.Blob{blobOf(content)}) {
		t.Errorf("PutServer before the upload: got error %v, want the program as missing", err)
	}
	var done int64
	if err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader(content), func(n int64) { done = n }); err != nil {
		t.Fatal(err)
	}
	got, whole := s.Blob(blobOf(content).Digest)
	if !whole || !bytes.Equal(got, content) {
		t.Errorf("Blob after the upload: got %d bytes, complete %t, want the %d bytes that were sent", len(got), whole, len(content))
	}
	if done != int64(len(content)) {
		t.Errorf("UploadBlob: got progress %d at the end, want %d", done, len(content))
	}
	if err := c.PutServer(t.Context(), want.Encode()); err != nil {
		t.Fatal(err)
	}
	state, err := c.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if digest := netbootapi.Digest(want.Encode()); state.State.Server != digest || len(state.State.MissingBlobs) != 0 {
		t.Errorf("got configuration %s and missing %v, want %s and none", state.State.Server, state.State.MissingBlobs, digest)
	}
	if got, ok := s.Server(); !ok || !bytes.Equal(got.Encode(), want.Encode()) || s.ServerPuts() != 1 {
		t.Errorf("Server: got %+v after %d puts, want %+v after 1", got, s.ServerPuts(), want)
	}
	s.Lose(blobOf(content).Digest)
	if missing := s.State().State.MissingBlobs; !slices.Equal(missing, []netbootapi.Blob{blobOf(content)}) {
		t.Errorf("after the program was lost: got missing %v, want it", missing)
	}
}

func TestMachinesArePutOneByOne(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	if err := c.PutMachine(t.Context(), "u1", entry(machine(1))); !errors.Is(err, netbootapi.ErrNoServer) {
		t.Errorf("PutMachine before the server: got error %v, want %v", err, netbootapi.ErrNoServer)
	}
	text := "#cloud-config\n"
	with := machine(1)
	with.UserDataTemplate = netbootapi.TextBlob(textKey, text)
	if err := c.UploadBlob(t.Context(), with.UserDataTemplate, strings.NewReader(text), nil); !errors.Is(err, netbootapi.ErrNoServer) {
		t.Errorf("upload of a text before the server: got error %v, want %v", err, netbootapi.ErrNoServer)
	}
	putServer(t, c)
	var missing *netbootapi.MissingError
	if err := c.PutMachine(t.Context(), "u1", entry(with)); !errors.As(err, &missing) || !slices.Equal(missing.Blobs, with.Texts()) {
		t.Errorf("PutMachine before the upload: got error %v, want the text as missing", err)
	}
	upload(t, c, with.UserDataTemplate, text)
	putMachine(t, c, with)
	if got, whole := s.Text(with.UserDataTemplate.Digest); !whole || got != text {
		t.Errorf("Text: got %q, %t, want %q", got, whole, text)
	}
	if err := c.PutMachine(t.Context(), "u2", netbootapi.NewEntry(nil, machine(2).Control)); !errors.Is(err, netbootapi.ErrNoContent) {
		t.Errorf("PutMachine without a content: got error %v, want %v", err, netbootapi.ErrNoContent)
	}
	second := machine(2)
	second.MAC = strings.ToUpper(with.MAC)
	if err := c.PutMachine(t.Context(), "u2", entry(second)); !errors.Is(err, netbootapi.ErrConflict) || !strings.Contains(err.Error(), with.Name) {
		t.Errorf("PutMachine with the MAC of another: got error %v, want %v that names %s", err, netbootapi.ErrConflict, with.Name)
	}
	s.RefuseMachine("u2", fmt.Errorf("%w: disk", netbootapi.ErrNoSpace))
	if err := c.PutMachine(t.Context(), "u2", entry(machine(2))); !errors.Is(err, netbootapi.ErrNoSpace) {
		t.Errorf("PutMachine to a full disk: got error %v, want %v", err, netbootapi.ErrNoSpace)
	}
	s.RefuseMachine("u2", nil)
	putMachine(t, c, machine(2))
	waited, err := s.WaitMachine(t.Context(), "u2", func(m netbootapi.Machine) bool { return m.Attempt == "1" })
	if err != nil || waited.Name != "target-2" || len(s.Machines()) != 2 || s.MachinePuts("u2") != 1 {
		t.Errorf("got %+v, error %v, %d machines, %d puts; want target-2, 2 and 1", waited, err, len(s.Machines()), s.MachinePuts("u2"))
	}
	state := s.State().Machines["u1"]
	if e := entry(with); state.Content != e.ContentDigest() || state.Control != e.ControlDigest() || state.Attempt != "1" {
		t.Errorf("got state %+v, want attempt 1 and the digests of the entry", state)
	}
	for range 2 {
		if err := c.DeleteMachine(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, there := s.State().Machines["u1"]; there || len(s.Machines()) != 1 {
		t.Errorf("got %+v after the removal, want no state", s.State().Machines)
	}
}

func TestContentIsKeptWhileInstalling(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	putMachine(t, c, machine(1))
	s.UpdateMachine("u1", func(m *netbootapi.MachineState) { m.ProfileDigest = "p" })
	edited := machine(1)
	edited.Hostname = "other"
	edited.BootConfirmed = "1"
	putMachine(t, c, edited)
	got, _ := s.Machine("u1")
	if state := s.State().Machines["u1"]; got.Hostname != "target-1" || got.BootConfirmed != "1" || !state.Installing {
		t.Errorf("while installing: got %+v, state %+v; want the old content with the new control part", got, state)
	}
	edited.Attempt = "2"
	putMachine(t, c, edited)
	got, _ = s.Machine("u1")
	if state := s.State().Machines["u1"]; got.Hostname != "other" || state.Installing || state.Attempt != "2" || state.ProfileDigest != "" {
		t.Errorf("in another attempt: got %+v, state %+v; want the new content and a new state", got, state)
	}
}

func TestSavedServerContinues(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	o := s.ClientOptions()
	o.Epoch = 2
	c := client(t, o)
	putServer(t, c)
	text := "#cloud-config\n"
	m := machine(1)
	m.UserDataTemplate = netbootapi.TextBlob(textKey, text)
	upload(t, c, m.UserDataTemplate, text)
	putMachine(t, c, m)
	s.UpdateMachine("u1", func(m *netbootapi.MachineState) { m.DiskBootAt = time.Unix(1, 0).UTC() })
	before := s.State()
	s.Stop()

	again := netbootdtest.Start(t, netbootdtest.Options{Credentials: s.Credentials(), Saved: s.Saved()})
	after := again.State()
	if diff := cmp.Diff(before.Machines, after.Machines); diff != "" || after.State.Server != before.State.Server {
		t.Errorf("got another state (-before +after): %s", diff)
	}
	if before.Position.Store == after.Position.Store {
		t.Error("got the store of the first run, want another")
	}
	if got, whole := again.Text(m.UserDataTemplate.Digest); !whole || got != text {
		t.Errorf("Text: got %q, %t, want %q", got, whole, text)
	}
	o = again.ClientOptions()
	o.Epoch = 1
	if err := client(t, o).PutMachine(t.Context(), "u1", entry(m)); !errors.Is(err, netbootapi.ErrFenced) {
		t.Errorf("an older manager: got error %v, want %v", err, netbootapi.ErrFenced)
	}
	if err := client(t, again.ClientOptions()).DeleteMachine(t.Context(), "u1"); !errors.Is(err, netbootapi.ErrFenced) {
		t.Errorf("a manager without an epoch: got error %v, want %v", err, netbootapi.ErrFenced)
	}
}

func TestEvents(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	const extra = 100
	for range 1024 + extra {
		s.Record(netbootapi.Event{Kind: netbootapi.EventDHCP, Name: "Ack", Detail: strings.Repeat("\x01", 1<<16)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var position netbootapi.Position
	var lost uint64
	err := c.Events(ctx, position, func(store string, e *netbootapi.Event, gone uint64) {
		lost += gone
		if e == nil {
			return
		}
		position = netbootapi.Position{Store: store, Sequence: e.Sequence}
		if e.Sequence == 1024+extra {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || lost != extra {
		t.Fatalf("got error %v after %d lost events, want all and %d lost", err, lost, extra)
	}
	s.Record(netbootapi.Event{Kind: netbootapi.EventSSH, Name: "Up"})
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []string
	err = c.Events(ctx, position, func(_ string, e *netbootapi.Event, gone uint64) {
		if e == nil || gone > 0 {
			t.Errorf("got event %v after %d lost ones, want none lost", e, gone)
			return
		}
		got = append(got, e.Name)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{"Up"}) {
		t.Errorf("resumed: got %v, error %v; want only what followed", got, err)
	}
}

// failing returns an error after until bytes, as an unreadable file does.
type failing struct {
	content []byte
	until   int64
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.until {
		return 0, errors.New("disk error")
	}
	return bytes.NewReader(f.content[:f.until]).ReadAt(p, off)
}

func TestUploadResumes(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if err := c.UploadBlob(t.Context(), blobOf(content), failing{content, 3 << 20}, nil); err == nil {
		t.Fatal("UploadBlob with a failing source: got no error, want one")
	}
	// The server may still be storing what was sent.
	var first int64
	for first = 0; first == 0; {
		first = -1
		err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader(content), func(n int64) {
			if first < 0 {
				first = n
			}
		})
		if errors.Is(err, netbootapi.ErrOffset) || first == 0 && err != nil {
			first = 0
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, whole := s.Blob(blobOf(content).Digest); !whole {
		t.Error("Blob after the upload was resumed: got a part, want all of it")
	}
}

// lingering delays the second read until the upload has ended, or for a second,
// which shows that the upload waits for the read.
type lingering struct {
	content []byte
	second  sync.Once
	ended   atomic.Bool
	late    bool
}

func (l *lingering) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		l.second.Do(func() {
			for end := time.Now().Add(time.Second); time.Now().Before(end) && !l.ended.Load(); {
				time.Sleep(time.Millisecond)
			}
			l.late = l.ended.Load()
		})
	}
	return bytes.NewReader(l.content).ReadAt(p, off)
}

func TestRefusedUploadStopsReadingContent(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	content := &lingering{content: bytes.Repeat([]byte("0123456789abcdef"), 1<<18)}
	blob := blobOf(content.content)
	err := c.UploadBlob(t.Context(), blob, content, func(int64) {
		// Another upload that completes first causes this one to be refused.
		if _, whole := s.Blob(blob.Digest); !whole {
			if err := c.UploadBlob(t.Context(), blob, bytes.NewReader(content.content), nil); err != nil {
				t.Error(err)
			}
		}
	})
	content.ended.Store(true)
	if !errors.Is(err, netbootapi.ErrOffset) {
		t.Errorf("UploadBlob of a complete blob: got error %v, want %v", err, netbootapi.ErrOffset)
	}
	content.second.Do(func() {}) // waits for a read in progress
	if content.late {
		t.Error("got a read of the content after UploadBlob returned, want none")
	}
}

func TestWrongContentIsRefused(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	content := []byte("right")
	err := c.UploadBlob(t.Context(), blobOf(content), bytes.NewReader([]byte("wrong")), nil)
	if !errors.Is(err, netbootapi.ErrDigest) {
		t.Errorf("UploadBlob of other content: got error %v, want %v", err, netbootapi.ErrDigest)
	}
}

func TestInvalidServerIsRefused(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	bad := bare()
	bad.Network.RangeEnd = netip.MustParseAddr("192.168.0.1")
	if err := c.PutServer(t.Context(), bad.Encode()); !errors.Is(err, netbootapi.ErrInvalid) {
		t.Errorf("PutServer of an invalid configuration: got error %v, want %v", err, netbootapi.ErrInvalid)
	}
	var refused *netbootapi.RefusedError
	s.Refuse(fmt.Errorf("%w: disk", netbootapi.ErrNoSpace))
	err := c.PutServer(t.Context(), bare().Encode())
	if !errors.Is(err, netbootapi.ErrNoSpace) {
		t.Errorf("PutServer to a full disk: got error %v, want %v", err, netbootapi.ErrNoSpace)
	}
	if !errors.As(err, &refused) {
		t.Errorf("PutServer to a full disk: got error %v, want a *RefusedError", err)
	}
	if n := s.ServerPuts(); n != 0 {
		t.Errorf("got %d accepted configurations, want none", n)
	}
}

func TestWatchReportsEveryChange(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	putMachine(t, c, machine(1))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	updates := make(chan netbootapi.Update)
	ended := make(chan error, 1)
	watch := func(after netbootapi.Position) {
		ended <- c.Watch(ctx, after, func(u netbootapi.Update) error {
			select {
			case updates <- u:
			case <-ctx.Done():
			}
			return nil
		})
	}
	go watch(netbootapi.Position{Store: "another", Sequence: 7})
	u := <-updates
	if !u.Snapshot || u.Server == nil || len(u.Machines) != 1 {
		t.Errorf("first update: got %+v, want a snapshot with one machine", u)
	}
	s.UpdateMachine("u1", func(m *netbootapi.MachineState) { m.ProfileDigest = "7" })
	u = <-updates
	if u.Snapshot || u.Server != nil || u.Machines["u1"] == nil || u.Machines["u1"].ProfileDigest != "7" {
		t.Errorf("second update: got %+v, want the machine alone", u)
	}
	s.Stop()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("Watch of a server that stopped: got nil, want an error")
		}
	case <-ctx.Done():
		t.Errorf("after %s: got a Watch of a stopped server that runs, want it to return", patience)
	}
}

// A stream that is resumed reports only what changed meanwhile, removals included.
func TestWatchResumes(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	for n := range 4 {
		putMachine(t, c, machine(n))
	}
	before := s.State()
	s.UpdateMachine("u1", func(m *netbootapi.MachineState) { m.ProfileDigest = "7" })
	if err := c.DeleteMachine(t.Context(), "u2"); err != nil {
		t.Fatal(err)
	}
	var got netbootapi.Update
	stop := errors.New("stop")
	err := c.Watch(t.Context(), before.Position, func(u netbootapi.Update) error {
		got = u
		return stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	gone, removed := got.Machines["u2"]
	if got.Snapshot || got.Server != nil || len(got.Machines) != 2 || got.Machines["u1"] == nil || !removed || gone != nil {
		t.Errorf("got %+v, want the change of u1 and the removal of u2", got)
	}
	if err := before.Apply(got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.State(), before, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the resumed state differs (-want +got): %s", diff)
	}
}

// The states of all machines together may be far larger than any single message, and
// a change of one is still reported.
func TestWatchOfManyLargeMachines(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	const machines = 300
	text := strings.Repeat("x", netbootapi.MaxMachineBytes-1024)
	for n := range machines {
		putMachine(t, c, machine(n))
		s.UpdateMachine(fmt.Sprintf("u%d", n), func(m *netbootapi.MachineState) {
			m.Warnings = []netbootapi.Warning{{Message: text}}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var state netbootapi.Observed
	err := c.Watch(ctx, netbootapi.Position{}, func(u netbootapi.Update) error {
		if err := state.Apply(u); err != nil {
			return err
		}
		if len(state.Machines) != machines {
			t.Errorf("got %d machines, want %d", len(state.Machines), machines)
		}
		if state.Machines["u7"].ProfileDigest == "2" {
			if len(u.Machines) != 1 {
				t.Errorf("got %d machines for a change of one, want 1", len(u.Machines))
			}
			cancel()
			return nil
		}
		s.UpdateMachine("u7", func(m *netbootapi.MachineState) { m.ProfileDigest = "2" })
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the change of one machine was not reported: %v", err)
	}
}

// request sends a request with the manager's certificate and returns the status.
func request(t *testing.T, s *netbootdtest.Server, method, path string, body io.Reader, header http.Header) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.Address()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{TLSClientConfig: s.ClientOptions().TLS}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	valid := string(entry(machine(1)).Encode())
	digest := blobOf(nil).Digest
	for name, r := range map[string]struct {
		method, path, body, epoch string
		want                      int
	}{
		"valid":             {http.MethodPut, "/v1/machines/u1", valid, "0", http.StatusNoContent},
		"no JSON":           {http.MethodPut, "/v1/machines/u2", "{", "", http.StatusUnprocessableEntity},
		"no control":        {http.MethodPut, "/v1/machines/u2", `{"content":{}}`, "", http.StatusUnprocessableEntity},
		"two values":        {http.MethodPut, "/v1/machines/u2", valid + valid, "", http.StatusUnprocessableEntity},
		"invalid UID":       {http.MethodPut, "/v1/machines/..%2fx", valid, "", http.StatusUnprocessableEntity},
		"hidden file":       {http.MethodDelete, "/v1/machines/.x", "", "", http.StatusUnprocessableEntity},
		"negative epoch":    {http.MethodPut, "/v1/machines/u2", valid, "-1", http.StatusUnprocessableEntity},
		"epoch in words":    {http.MethodDelete, "/v1/machines/u2", "", "first", http.StatusUnprocessableEntity},
		"large entry":       {http.MethodPut, "/v1/machines/u2", strings.Repeat(" ", netbootapi.MaxEntryBytes+1), "", http.StatusRequestEntityTooLarge},
		"large server":      {http.MethodPut, "/v1/server", strings.Repeat(" ", netbootapi.MaxConfigBytes+1), "", http.StatusRequestEntityTooLarge},
		"server of no JSON": {http.MethodPut, "/v1/server", "{", "", http.StatusUnprocessableEntity},
		"blob without size": {http.MethodPut, "/v1/blobs/" + digest + "?offset=0", "x", "", http.StatusUnprocessableEntity},
		"negative offset":   {http.MethodPut, "/v1/blobs/" + digest + "?offset=-1&size=1", "x", "", http.StatusUnprocessableEntity},
		"invalid digest":    {http.MethodHead, "/v1/blobs/x?size=1", "", "", http.StatusUnprocessableEntity},
		"the old document":  {http.MethodPut, "/v1/config", "{}", "", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			if r.epoch != "" {
				header.Set(netbootapi.HeaderEpoch, r.epoch)
			}
			if got := request(t, s, r.method, r.path, strings.NewReader(r.body), header); got != r.want {
				t.Errorf("got status %d, want %d", got, r.want)
			}
		})
	}
	if got := s.Machines(); len(got) != 1 || s.MachinePuts("u2") != 0 {
		t.Errorf("got machines %+v, want u1 only", got)
	}
}

func TestUnknownPositionIsAnsweredWithASnapshot(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	stop := errors.New("stop")
	for name, after := range map[string]netbootapi.Position{
		"none": {}, "another run": {Store: "x", Sequence: 1}, "malformed": {Store: "a b"}, "long": {Store: strings.Repeat("x", 10_000)},
	} {
		err := c.Watch(t.Context(), after, func(u netbootapi.Update) error {
			if !u.Snapshot || u.Server == nil {
				t.Errorf("%s: got %+v, want a snapshot", name, u)
			}
			return stop
		})
		if !errors.Is(err, stop) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDialTarget(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		conn, err := target.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "SSH-2.0-test\r\n")
		sent, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(sent))
	}()
	s := netbootdtest.Start(t, netbootdtest.Options{Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", target.Addr().String())
	}})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	putMachine(t, c, machine(1))
	if _, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("10.9.1.12:22")); !errors.Is(err, netbootapi.ErrNoTarget) {
		t.Errorf("DialTarget of an undeclared address: got error %v, want %v", err, netbootapi.ErrNoTarget)
	}
	conn, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("10.9.1.11:22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "SSH-2.0-test\r\nHELLO" {
		t.Errorf("got %q, error %v, want \"SSH-2.0-test\\r\\nHELLO\"", got, err)
	}
}

func TestDialUnreachableTarget(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	c := client(t, s.ClientOptions())
	putServer(t, c)
	putMachine(t, c, machine(1))
	if _, err := c.DialTarget(t.Context(), netip.MustParseAddrPort("10.9.1.11:22")); !errors.Is(err, netbootapi.ErrUnreachable) {
		t.Errorf("DialTarget of an unreachable machine: got error %v, want %v", err, netbootapi.ErrUnreachable)
	}
}

func TestOnlyTheManagerIsAccepted(t *testing.T) {
	s := netbootdtest.Start(t, netbootdtest.Options{})
	other, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own := s.Credentials()
	mix := func(ca, crt, key []byte) *tls.Config {
		config, err := (&netbootapi.Credentials{CA: ca, ClientCrt: crt, ClientKey: key}).ClientTLS()
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	foreign := mix(other.CA, other.ClientCrt, other.ClientKey)
	foreign.RootCAs = s.ClientOptions().TLS.RootCAs
	none := s.ClientOptions().TLS
	none.Certificates = nil
	none.GetClientCertificate = nil
	old := s.ClientOptions().TLS
	old.MinVersion = tls.VersionTLS12
	old.MaxVersion = tls.VersionTLS12
	for name, config := range map[string]*tls.Config{
		"another authority's client":      foreign,
		"another server":                  mix(other.CA, other.ClientCrt, other.ClientKey),
		"the server's certificate itself": mix(own.CA, own.ServerCrt, own.ServerKey),
		"no certificate":                  none,
		"TLS 1.2":                         old,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client(t, netbootapi.ClientOptions{Address: s.Address(), TLS: config}).Observe(t.Context()); err == nil {
				t.Error("the request succeeded, want an error")
			}
		})
	}
	if _, err := client(t, s.ClientOptions()).Observe(t.Context()); err != nil {
		t.Errorf("Observe for the manager: got error %v, want none", err)
	}
}
