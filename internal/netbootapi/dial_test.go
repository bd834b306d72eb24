// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

// TestDialTargetTellsWhyItEnded ends the attempt, as the limit does, while netbootd keeps
// silent: before the TLS handshake, and before the answer to the request.
func TestDialTargetTellsWhyItEnded(t *testing.T) {
	ended := errors.New("ended by the test")
	dial := func(ctx context.Context, t *testing.T, address string, config *tls.Config) {
		t.Helper()
		c, err := New(ClientOptions{Address: address, TLS: config})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.DialTarget(ctx, netip.MustParseAddrPort("192.0.2.1:22"))
		if !errors.Is(err, ended) {
			t.Errorf("got error %v, want %q", err, ended)
		}
	}
	t.Run("before_the_handshake", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, end := context.WithCancelCause(t.Context())
		over := make(chan struct{})
		defer close(over)
		go func() {
			conn, err := l.Accept()
			end(ended)
			<-over
			if err == nil {
				_ = conn.Close()
			}
		}()
		dial(ctx, t, l.Addr().String(), &tls.Config{ServerName: "netbootd"})
	})
	t.Run("before_the_answer", func(t *testing.T) {
		ctx, end := context.WithCancelCause(t.Context())
		server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			end(ended)
			<-r.Context().Done()
		}))
		defer server.Close()
		dial(ctx, t, server.Listener.Addr().String(), server.Client().Transport.(*http.Transport).TLSClientConfig)
	})
}
