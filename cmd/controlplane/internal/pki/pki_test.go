// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// files returns the content of all files in dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		content[e.Name()] = string(data)
	}
	return content
}

func ensure(t *testing.T, dir string, now time.Time) Bundle {
	t.Helper()
	b, err := Ensure(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnsureRenews(t *testing.T) {
	first := []string{"admin.crt", "admin.key", "apiserver.crt", "apiserver.key", "ca.crt", "ca.key"}
	second := []string{"front-proxy-ca.crt", "front-proxy-ca.key", "front-proxy-client.crt", "front-proxy-client.key"}
	all := slices.Concat(first, second)
	tests := map[string]struct {
		harm  func(t *testing.T, dir string)
		later time.Duration
		want  []string // files that change
	}{
		"no change":             {},
		"leaves before renewal": {later: leafLifetime - RenewBefore - time.Minute},
		"leaves expire soon": {
			later: leafLifetime - RenewBefore + time.Minute,
			want:  []string{"admin.crt", "admin.key", "apiserver.crt", "apiserver.key", "front-proxy-client.crt", "front-proxy-client.key"},
		},
		"CA expires soon": {later: caLifetime - RenewBefore + time.Minute, want: all},
		"not yet valid": {
			later: -48 * time.Hour,
			want:  all,
		},
		"key missing": {
			harm: func(t *testing.T, dir string) { check(t, os.Remove(filepath.Join(dir, "admin.key"))) },
			want: []string{"admin.crt", "admin.key"},
		},
		"certificate truncated": {
			harm: func(t *testing.T, dir string) { check(t, os.Truncate(filepath.Join(dir, "apiserver.crt"), 40)) },
			want: []string{"apiserver.crt", "apiserver.key"},
		},
		"key readable by others": {
			harm: func(t *testing.T, dir string) { check(t, os.Chmod(filepath.Join(dir, "ca.key"), 0o644)) },
			want: first,
		},
		"key of the second CA missing": {
			harm: func(t *testing.T, dir string) { check(t, os.Remove(filepath.Join(dir, "front-proxy-ca.key"))) },
			want: second,
		},
		"pairs swapped": {
			harm: func(t *testing.T, dir string) {
				for _, ext := range []string{".crt", ".key"} {
					check(t, os.Rename(filepath.Join(dir, "admin"+ext), filepath.Join(dir, "apiserver"+ext)))
				}
			},
			want: []string{"admin.crt", "admin.key", "apiserver.crt", "apiserver.key"},
		},
		"signing key empty": {
			harm: func(t *testing.T, dir string) { check(t, os.Truncate(filepath.Join(dir, "service-account.key"), 0)) },
			want: []string{"service-account.key"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			ensure(t, dir, t0)
			before := files(t, dir)
			if tt.harm != nil {
				tt.harm(t, dir)
			}
			b := ensure(t, dir, t0.Add(tt.later))
			after := files(t, dir)
			var changed []string
			for _, name := range slices.Sorted(maps.Keys(after)) {
				if after[name] != before[name] {
					changed = append(changed, name)
				}
			}
			if diff := cmp.Diff(tt.want, changed); diff != "" {
				t.Errorf("changed files (-want +got):\n%s", diff)
			}
			if (len(b.Renewed) > 0) != (len(tt.want) > 0) {
				t.Errorf("got renewals %q, want them reported exactly when files change", b.Renewed)
			}
			verify(t, b, t0.Add(tt.later))
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verify performs a TLS handshake as kube-apiserver and its admin would.
func verify(t *testing.T, b Bundle, now time.Time) {
	t.Helper()
	serving, err := tls.LoadX509KeyPair(b.ServingCert, b.ServingKey)
	check(t, err)
	admin, err := tls.LoadX509KeyPair(b.AdminCert, b.AdminKey)
	check(t, err)
	pemCA, err := os.ReadFile(b.CACert)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pemCA)
	clock := func() time.Time { return now }

	c, s := net.Pipe()
	server := tls.Server(s, &tls.Config{
		Certificates: []tls.Certificate{serving}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, Time: clock,
	})
	client := tls.Client(c, &tls.Config{
		Certificates: []tls.Certificate{admin}, RootCAs: pool, ServerName: "127.0.0.1", Time: clock,
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatalf("handshake of the admin: got error %v, want trust in the server", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("handshake of the server: got error %v, want trust in the admin", err)
	}
	peer := server.ConnectionState().PeerCertificates[0]
	if diff := cmp.Diff([]string{"system:masters"}, peer.Subject.Organization); diff != "" {
		t.Errorf("admin's groups (-want +got):\n%s", diff)
	}
}

func TestEnsureSetsPrivateModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	check(t, os.Mkdir(dir, 0o755))
	ensure(t, dir, t0)
	checkMode(t, dir, 0o700)
	for name := range files(t, dir) {
		checkMode(t, filepath.Join(dir, name), 0o600)
	}
}

func checkMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	check(t, err)
	if mode := info.Mode().Perm(); mode != want {
		t.Errorf("%s: got mode %v, want %v", path, mode, want)
	}
}

func TestLifetimes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ensure(t, dir, t0)
	for name, content := range files(t, dir) {
		if filepath.Ext(name) != ".crt" {
			continue
		}
		block, _ := pem.Decode([]byte(content))
		cert, err := x509.ParseCertificate(block.Bytes)
		check(t, err)
		if left := cert.NotAfter.Sub(t0); left < 365*24*time.Hour {
			t.Errorf("%s: got a lifetime of %s, want at least a year", name, left)
		}
	}
}
