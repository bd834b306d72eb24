// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// handshake connects the two sides and sends one byte to the client.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	// net.Pipe has no buffer: an alert must not wait for a reader forever.
	deadline := time.Now().Add(time.Minute)
	if err := errors.Join(a.SetDeadline(deadline), b.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn := tls.Server(a, server)
		_, _ = conn.Write([]byte{1}) // the client returns the error
		_ = a.Close()
	}()
	conn := tls.Client(b, client)
	_, err := io.ReadFull(conn, make([]byte, 1))
	_ = b.Close()
	<-served
	return err
}

func TestTrust(t *testing.T) {
	start := time.Now()
	now := start
	clock := func() time.Time { return now }
	made := func(at time.Time) *Credentials {
		c, err := NewCredentials(at)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, second := made(start), made(start.Add(300*24*time.Hour))
	identity, err := NewIdentity(first.Server(), clock)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(trust Trust) error {
		t.Helper()
		config, err := trust.ClientTLS(clock)
		if err != nil {
			t.Fatal(err)
		}
		return handshake(t, identity.TLS(), config)
	}
	both := Trust{Current: first, Next: second}
	renewing := start.Add(300 * 24 * time.Hour)
	for _, tc := range []struct {
		name   string
		at     time.Time
		serves *Credentials
		trust  Trust
		ok     bool
	}{
		{"new credentials", start, first, Trust{Current: first}, true},
		{"a host clock that was set back", start.Add(-1000 * time.Hour), first, Trust{Current: first}, true},
		{"the day before expiry", start.Add(364 * 24 * time.Hour), first, Trust{Current: first}, true},
		{"the day after expiry", start.Add(366 * 24 * time.Hour), first, Trust{Current: first}, false},
		{"successors exist", renewing, first, both, true},
		{"successors are in force", renewing, second, both, true},
		{"successors only", renewing, second, Trust{Current: second}, true},
		{"old credentials only", renewing, second, Trust{Current: first}, false},
		{"successors that the server does not have", renewing, first, Trust{Current: second}, false},
		{"old credentials expired, successors are in force", start.Add(400 * 24 * time.Hour), second, both, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now = tc.at
			if err := identity.Replace(tc.serves.Server()); err != nil {
				t.Fatal(err)
			}
			err := connect(tc.trust)
			if (err == nil) != tc.ok {
				t.Errorf("got error %v, want success: %v", err, tc.ok)
			}
			if err != nil && !IsUntrusted(err) {
				t.Errorf("IsUntrusted(%v): got false, want true", err)
			}
		})
	}
	for _, err := range []error{io.EOF, &net.OpError{Op: "dial", Err: errors.New("refused")}} {
		if IsUntrusted(err) {
			t.Errorf("IsUntrusted(%v): got true, want false", err)
		}
	}
	broken := second.Server()
	broken.Key = first.ServerKey
	if err := broken.Check(); !errors.Is(err, ErrInvalid) {
		t.Errorf("key of other credentials: got %v, want ErrInvalid", err)
	}
	if err := identity.Replace(broken); err == nil {
		t.Error("Replace with a key of other credentials: got no error, want one")
	}
	if got, want := identity.Digest(), second.Server().Digest(); got != want {
		t.Errorf("after a failed Replace: got credentials %s in force, want %s", got, want)
	}
}

func TestTrustEncodesToSecret(t *testing.T) {
	first, err := NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, key := range TrustKeys() {
		known[key] = true
	}
	for _, want := range []Trust{{Current: first}, {Current: first, Next: second}} {
		data := want.Encode()
		for key := range data {
			if !known[key] {
				t.Errorf("TrustKeys: got no key %s, want it", key)
			}
		}
		data["token-key"] = []byte("not ours")
		got, err := DecodeTrust(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("decoded trust (-want +got):\n%s", diff)
		}
	}
	data := Trust{Current: first, Next: second}.Encode()
	delete(data, nextPrefix+FileServerKey)
	if _, err := DecodeTrust(data); err == nil {
		t.Error("incomplete successors: got no error, want one")
	}
}
