// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

const secret = `{"AccessKeyId":"AKIA","SecretAccessKey":"s3cr3t"}`

// internal is a server that only the manager can reach, and the number of its requests.
type internal struct {
	*httptest.Server
	connections atomic.Int32
}

func newInternal(t *testing.T) *internal {
	t.Helper()
	i := &internal{}
	i.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(secret)) }))
	i.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			i.connections.Add(1)
		}
	}
	i.Start()
	t.Cleanup(i.Close)
	return i
}

func closedStore(t *testing.T, allow ...netip.Prefix) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) { o.Network = Network{Allow: allow} })
}

// wantForbidden fails unless an error reports a refused address, and nothing of what is there.
func wantForbidden(t *testing.T, err error, text string) {
	t.Helper()
	wantReason(t, err, ReasonForbidden, text)
	wantNothingOf(t, err)
	var e *Error
	if errors.As(err, &e); e.Transient() {
		t.Errorf("got a transient error %v, want a permanent one", err)
	}
}

// wantNothingOf fails if an error contains something of the secret, or its digest.
func wantNothingOf(t *testing.T, err error) {
	t.Helper()
	_, sum256, _ := strings.Cut(sha256Of([]byte(secret)), ":")
	_, sum512, _ := strings.Cut(sha512Of([]byte(secret)), ":")
	for _, part := range []string{"s3cr3t", "AKIA", sum256, sum512} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("got error %q, want one without %q", err, part)
		}
	}
}

// hasIPv6 reports whether this host can create IPv6 sockets.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

func TestEnsureNeverConnectsToInternalAddresses(t *testing.T) {
	i := newInternal(t)
	_, port, err := net.SplitHostPort(i.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := closedStore(t)
	for host, text := range map[string]string{
		"127.0.0.1": "loopback", "localhost": "loopback", "[::1]": "loopback", "[::ffff:127.0.0.1]": "loopback", "0.0.0.0": "unspecified",
		"[64:ff9b::7f00:1]": "contains 127.0.0.1", "[2002:7f00:1::]": "contains 127.0.0.1", "169.254.169.254": "link-local",
		"10.0.0.1": "private", "[fd00:ec2::254]": "metadata", "[fe80::1%25lo]": "link-local", "224.0.0.1": "multicast",
	} {
		if strings.HasPrefix(host, "[") && !hasIPv6() {
			continue
		}
		t.Run(host, func(t *testing.T) {
			url := "http://" + host + ":" + port + "/latest/meta-data"
			_, err := s.Ensure(t.Context(), Source{URL: url, Checksum: sha256Of(nil)}, nil)
			wantForbidden(t, err, text)
			_, err = s.Ensure(t.Context(), Source{URL: "http://" + host + ":" + port + "/f", Checksum: url}, nil)
			wantForbidden(t, err, text)
		})
	}
	if n := i.connections.Load(); n != 0 {
		t.Errorf("got %d connections to the internal server, want none", n)
	}
}

func TestNetworkRefusesOwnAddresses(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("203.0.113.7")}
	n := Network{AllowPrivate: true, own: func() ([]netip.Addr, error) { return own, nil }}
	transport, err := newTransport(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := transport.check(own[0]); err == nil || !strings.Contains(err.Error(), "own addresses") {
		t.Errorf("own address: got %v, want an error", err)
	}
	if err := transport.check(netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Errorf("private address: got error %v, want none", err)
	}
	own = nil // the host has moved to another network
	if err := transport.check(netip.MustParseAddr("203.0.113.7")); err != nil {
		t.Errorf("former own address: got error %v, want none", err)
	}
	all, err := ownAddresses()
	if err != nil || len(all) == 0 {
		t.Errorf("ownAddresses: got %v, error %v, want at least one", all, err)
	}
}

// A server that anyone can reach redirects to where only the manager can go.
func TestEnsureChecksRedirects(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // only Linux has all of 127.0.0.0/8
	}
	i := newInternal(t)
	var target atomic.Value
	public := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.Load().(string), http.StatusFound)
	}))
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = public.Listener.Close()
	public.Listener = listener
	public.Start()
	defer public.Close()
	s := closedStore(t, netip.MustParsePrefix("127.0.0.2/32"))
	for to, text := range map[string]string{
		i.URL + "/role": "loopback",
		"http://169.254.169.254/latest/meta-data": "link-local",
		"http://10.96.0.1/":                       "private",
		"ftp://192.0.2.1/f":                       "neither http nor https",
		"file:///etc/shadow":                      "neither http nor https",
		"http://user:s3cr3t@192.0.2.1/f":          "credentials",
	} {
		target.Store(to)
		_, err := s.Ensure(t.Context(), Source{URL: public.URL + "/initrd", Checksum: sha256Of(nil)}, nil)
		wantForbidden(t, err, text)
		_, err = s.Ensure(t.Context(), Source{URL: public.URL + "/initrd", Checksum: public.URL + "/SHA256SUMS"}, nil)
		wantForbidden(t, err, text)
	}
	if n := i.connections.Load(); n != 0 {
		t.Errorf("got %d connections to the internal server, want none", n)
	}
}

func TestRedirectsKeepCredentials(t *testing.T) {
	content := []byte("content")
	seen := make(chan http.Header, 1)
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		_, _ = w.Write(content)
	})
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "s3cr3t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/f" {
			http.Redirect(w, r, "/g?signature=s3cr3t", http.StatusFound) // on the same host
			return
		}
		http.Redirect(w, r, other+"/f", http.StatusFound)
	})
	s := newStore(t)
	a, err := s.Ensure(t.Context(), Source{URL: strings.Replace(first, "://", "://user:s3cr3t@", 1) + "/f", Checksum: sha256Of(content)}, nil)
	wantContent(t, a, err, content)
	header := <-seen
	for _, name := range []string{"Authorization", "Referer"} {
		if got := header.Get(name); got != "" {
			t.Errorf("another host: got header %s: %s, want none", name, got)
		}
	}
}
