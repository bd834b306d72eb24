// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/accesstest"
)

// clientWith returns an HTTP client with a certificate of the authority.
func clientWith(t *testing.T, p *accesstest.FrontProxy, name string, server *access.Certificate) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.AuthorityPEM())
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, ServerName: "pxelab-access.kube-system.svc",
			Certificates: []tls.Certificate{p.Certificate(t, name)},
		},
	}}
}

// TestTLSServer connects as an API server and as others who reach the port.
func TestTLSServer(t *testing.T) {
	certificate, err := access.NewCertificate("pxelab-access.kube-system.svc")
	if err != nil {
		t.Fatal(err)
	}
	server, err := access.ListenTLS("127.0.0.1:0", certificate, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	reviewer := &reviewer{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(ctx, access.NewHandler(access.HandlerOptions{
			Backend: &backend{dir: t.TempDir()}, Authenticator: server, Authorizer: reviewer,
		}))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	get := func(c *http.Client, headers map[string]string) (int, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"https://"+server.Addr().String()+"/apis/access.pxelab.io/v1alpha1/namespaces/a/baremetaltargets/target-1/log", nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range headers {
			request.Header.Set(key, value)
		}
		response, err := c.Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	proxy, other := accesstest.NewFrontProxy(t), accesstest.NewFrontProxy(t)
	jane := map[string]string{
		"X-Remote-User": "jane", "X-Remote-Uid": "7", "X-Remote-Group": "system:authenticated",
		"X-Remote-Extra-Example.com%2fscope": "lab",
	}
	if _, err := get(clientWith(t, proxy, accesstest.ProxyName, certificate), jane); err == nil {
		t.Error("before the authority is known: got a response, want the connection refused")
	}
	trust, err := access.ParseRequestTrust(trustData(proxy.AuthorityPEM()))
	if err != nil {
		t.Fatal(err)
	}
	server.Trust(trust)

	if code, err := get(clientWith(t, proxy, accesstest.ProxyName, certificate), jane); err != nil || code != http.StatusNotFound {
		t.Errorf("API server: got status %d, error %v, want %d: there is no log", code, err, http.StatusNotFound)
	}
	want := access.User{
		Name: "jane", UID: "7", Groups: []string{"system:authenticated"}, Extra: map[string][]string{"example.com/scope": {"lab"}},
	}
	if diff := cmp.Diff(want, reviewer.user); diff != "" {
		t.Errorf("user differs (-want +got):\n%s", diff)
	}
	if code, err := get(clientWith(t, proxy, accesstest.ProxyName, certificate), nil); err != nil || code != http.StatusUnauthorized {
		t.Errorf("request without a user: got status %d, error %v, want 401", code, err)
	}
	if code, err := get(clientWith(t, proxy, "someone", certificate), jane); err != nil || code != http.StatusUnauthorized {
		t.Errorf("another certificate of the authority: got status %d, error %v, want 401", code, err)
	}
	if _, err := get(clientWith(t, other, accesstest.ProxyName, certificate), jane); err == nil {
		t.Error("certificate of another authority: got a response, want the connection refused")
	}
	without := clientWith(t, proxy, accesstest.ProxyName, certificate)
	without.Transport.(*http.Transport).TLSClientConfig.Certificates = nil
	if _, err := get(without, jane); err == nil {
		t.Error("no certificate: got a response, want the connection refused")
	}
}

// reviewer allows everything and records the user.
type reviewer struct{ user access.User }

func (r *reviewer) Authorize(_ context.Context, u access.User, _ access.Attributes) (bool, string, error) {
	r.user = u
	return true, "", nil
}
