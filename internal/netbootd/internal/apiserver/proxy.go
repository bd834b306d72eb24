// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func (h *handler) proxy(w http.ResponseWriter, r *http.Request) {
	address, err := netip.ParseAddrPort(r.URL.Query().Get("address"))
	if err != nil {
		h.fail(w, fmt.Errorf("%w: address: %w", netbootapi.ErrInvalid, err))
		return
	}
	if r.Header.Get("Upgrade") != netbootapi.UpgradeName {
		h.fail(w, fmt.Errorf("%w: the request has no Upgrade: %s", netbootapi.ErrInvalid, netbootapi.UpgradeName))
		return
	}
	target, err := h.backend.DialTarget(r.Context(), address)
	if err != nil {
		h.fail(w, err)
		return
	}
	defer target.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.fail(w, fmt.Errorf("taking over the connection: %w", err))
		return
	}
	defer client.Close()
	h.proxies.Add(1)
	defer h.proxies.Done()
	_ = client.SetDeadline(time.Time{})
	_, err = fmt.Fprintf(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", netbootapi.UpgradeName)
	if err != nil {
		return
	}
	// A hijacked connection is no longer closed by the HTTP server.
	stop := context.AfterFunc(r.Context(), func() {
		_ = client.Close()
		_ = target.Close()
	})
	defer stop()
	// Read what the server has buffered, then the connection itself: the
	// server's reader would end the request's context at the client's half-close.
	ahead := io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered()))
	pipe(client, io.MultiReader(ahead, client), target)
}

// pipe copies in both directions until both have ended, and passes on
// half-closes.
func pipe(client net.Conn, fromClient io.Reader, target net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(target, fromClient)
		closeWrite(target, err)
	}()
	_, err := io.Copy(client, target)
	closeWrite(client, err)
	<-done
}

// closeWrite half-closes conn if err is nil, and otherwise closes it, so that
// the other direction ends too.
func closeWrite(conn net.Conn, err error) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
		if half.CloseWrite() == nil {
			return
		}
	}
	_ = conn.Close()
}
