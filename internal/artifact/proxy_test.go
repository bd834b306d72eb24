// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// proxy is an HTTP proxy. It connects every host to the same servers, as it resolves the
// names itself.
type proxy struct {
	*httptest.Server
	plain, tls string // host and port
	tunnels    sync.WaitGroup
	mu         sync.Mutex
	requests   []string
	// refuse is the status line of its answers, if it refuses requests.
	refuse string
}

func newProxy(t *testing.T, plain, tls string) *proxy {
	t.Helper()
	p := &proxy{plain: plain, tls: tls}
	p.Server = httptest.NewServer(p)
	t.Cleanup(func() {
		p.tunnels.Wait()
		p.Close()
	})
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests = append(p.requests, r.Method+" "+r.URL.String()+r.Header.Get("Proxy-Authorization"))
	refuse := p.refuse
	p.mu.Unlock()
	if refuse != "" || r.Method == http.MethodConnect {
		p.tunnel(w, refuse)
		return
	}
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Host = p.plain
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// tunnel connects the client to the TLS server, or refuses with a status line.
func (p *proxy) tunnel(w http.ResponseWriter, refuse string) {
	p.tunnels.Add(1)
	defer p.tunnels.Done()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = client.Close() }()
	if refuse != "" {
		_, _ = io.WriteString(client, refuse+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	server, err := net.Dial("tcp", p.tls)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()
	both.Wait()
}

// seen returns the requests so far.
func (p *proxy) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// The proxy's address is a loopback address, which is permitted for a proxy only.
func TestEnsureUsesProxyOfEnvironment(t *testing.T) {
	content := []byte("content")
	serveContent := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
	plain, secure := serve(t, serveContent), tlsServer(t, serveContent)
	p := newProxy(t, strings.TrimPrefix(plain, "http://"), secure.Listener.Addr().String())
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTP_PROXY", strings.Replace(p.URL, "://", "://user:word@", 1))
	t.Setenv("HTTPS_PROXY", p.URL)
	t.Setenv("NO_PROXY", "192.0.2.0/24,.direct.invalid")
	for _, url := range []string{"https://example.com/f", "http://example.com/f"} {
		s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) {
			o.Network = Network{CAFile: certificateFile(t, secure)}
		})
		a, err := s.Ensure(t.Context(), Source{URL: url, Checksum: sha256Of(content)}, nil)
		wantContent(t, a, err, content)
	}
	want := []string{"CONNECT //example.com:443", "GET http://example.com/fBasic dXNlcjp3b3Jk"}
	if got := p.seen(); !slices.Equal(got, want) {
		t.Errorf("got requests %q to the proxy, want %q", got, want)
	}
	s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) {
		o.Network = Network{}
		o.Attempts = 1
	})
	for url, text := range map[string]string{
		"http://127.0.0.1/f": "loopback", "http://localhost/f": "loopback", "http://x.localhost/f": "loopback", "http://10.0.0.1/f": "private",
		"https://169.254.169.254/f": "link-local", "http://[::ffff:a9fe:a9fe]/f": "link-local", "http://[fd00::1]/f": "private",
		"http://127.1/f": "abbreviated", "http://0x7f000001/f": "abbreviated", "http://2130706433/f": "abbreviated",
		"http://0177.0.0.1./f": "abbreviated",
	} {
		_, err := s.Ensure(t.Context(), Source{URL: url, Checksum: sha256Of(nil)}, nil)
		wantForbidden(t, err, text)
	}
	_, err := s.Ensure(t.Context(), Source{URL: "http://x.direct.invalid/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "resolving the host name")
	if got := p.seen(); len(got) != len(want) {
		t.Errorf("got requests %q to the proxy, want no more than %q", got, want)
	}
}

func TestEnsureReportsRefusalOfProxy(t *testing.T) {
	p := newProxy(t, "", "")
	p.refuse = "HTTP/1.1 403 s3cr3t"
	t.Setenv("NO_PROXY", "")
	t.Setenv("HTTP_PROXY", p.URL)
	t.Setenv("HTTPS_PROXY", p.URL)
	s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) { o.Attempts = 1 })
	_, err := s.Ensure(t.Context(), Source{URL: "https://example.com/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "the proxy returned 403 Forbidden")
	wantNothingOf(t, err)
	_, err = s.Ensure(t.Context(), Source{URL: "http://example.com/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonHTTPStatus, "403 Forbidden")
	wantNothingOf(t, err)
	p.CloseClientConnections()
	_ = p.Listener.Close()
	_, err = s.Ensure(t.Context(), Source{URL: "https://example.com/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "connecting to the proxy")
}
