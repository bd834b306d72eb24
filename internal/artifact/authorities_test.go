// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// certificateFile writes the certificate of a TLS server.
func certificateFile(t *testing.T, server *httptest.Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tlsServer is a server whose certificate no system trusts. It is valid for 127.0.0.1 and
// example.com.
func tlsServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that refuse the certificate
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestEnsureTrustsPrivateAuthorities(t *testing.T) {
	content := []byte("content")
	plain := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	server := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/downgrade" {
			http.Redirect(w, r, plain, http.StatusFound)
			return
		}
		_, _ = w.Write(content)
	})
	src := Source{URL: server.URL + "/f", Checksum: sha256Of(content)}
	_, err := newStore(t).Ensure(t.Context(), src, nil)
	wantReason(t, err, ReasonUnreachable, "--artifact-ca-file")

	s := openStore(t, filepath.Join(t.TempDir(), "store"), func(o *Options) { o.Network.CAFile = certificateFile(t, server) })
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	_, err = s.Ensure(t.Context(), Source{URL: server.URL + "/downgrade", Checksum: sha256Of(nil)}, nil)
	wantForbidden(t, err, "from https to http")
	_, err = s.Ensure(t.Context(), Source{URL: strings.Replace(server.URL, "127.0.0.1", "localhost", 1) + "/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "another host name")
	_, err = s.Ensure(t.Context(), Source{URL: strings.Replace(plain, "http:", "https:", 1) + "/f", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonUnreachable, "does not use TLS")

	none := filepath.Join(t.TempDir(), "none.pem")
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{none, none + ".missing"} {
		if s, err := Open(Options{Dir: t.TempDir(), Network: Network{CAFile: file}}); err == nil {
			_ = s.Close()
			t.Errorf("%s: got no error, want one", file)
		}
	}
}

const envFetch = "PXELAB_TEST_FETCH"

// TestSSLCertFile has the system's authorities replaced, which a process reads once.
func TestSSLCertFile(t *testing.T) {
	content := []byte("content")
	if url := os.Getenv(envFetch); url != "" {
		a, err := newStore(t).Ensure(t.Context(), Source{URL: url, Checksum: sha256Of(content)}, nil)
		wantContent(t, a, err, content)
		return
	}
	if runtime.GOOS != "linux" {
		return // macOS has its keychain
	}
	server := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSSLCertFile$")
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+certificateFile(t, server), fmt.Sprintf("%s=%s/f", envFetch, server.URL))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("a process with SSL_CERT_FILE: %v\n%s", err, out)
	}
}
