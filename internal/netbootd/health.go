// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	// checkAlive is the interval of the health checks.
	checkAlive = 5 * time.Second
	// aliveLimit is the timeout of a health check, half of the watchdog's: a
	// guest that is emulated on a busy host is slow, not hung.
	aliveLimit = 30 * time.Second
	// alivePath is served to the server's own address only.
	alivePath = "/alive"
)

// feedWatchdog calls Alive after every successful health check until ctx ends.
// When the server hangs, the check hangs or fails, and the watchdog expires.
func (s *Server) feedWatchdog(ctx context.Context) {
	tick := time.NewTicker(checkAlive)
	defer tick.Stop()
	healthy := true
	for {
		switch err := s.check(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			healthy = true
			s.options.Alive()
		case healthy:
			healthy = false
			s.log.Error("not all services answer; the watchdog is not fed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// check probes every configured service, as its clients do where a machine can
// reach itself that way.
func (s *Server) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aliveLimit)
	defer cancel()
	s.state.current() // blocks when the lock that all services need is stuck
	err := askAPI(ctx, s.api.Addr())
	s.mu.Lock()
	l := s.lab
	s.mu.Unlock()
	if l == nil {
		return err // no configuration yet, or the services failed and are retried
	}
	err = errors.Join(err, l.dhcp.Check(aliveLimit), l.askHTTP(ctx), l.askTFTP(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lab != l {
		return nil // the services that did not answer were being stopped
	}
	return err
}

// askAPI sends plain HTTP to the netboot API. Its plain-text error response is
// enough to know that connections are accepted and served.
func askAPI(ctx context.Context, address net.Addr) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return fmt.Errorf("netboot API: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err == nil {
		_, err = conn.Read(make([]byte, 16))
	}
	if err != nil {
		return fmt.Errorf("netboot API: %w", err)
	}
	return nil
}

// askHTTP fetches alivePath from the lab's HTTP server.
func (l *lab) askHTTP(ctx context.Context) error {
	own := l.network.Load().Address.Addr()
	url := "http://" + netip.AddrPortFrom(own, l.renderer.Port).String() + alivePath
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: own.AsSlice()}}
	client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("http: the health check got %s", resp.Status)
	}
	return nil
}

func (h *labHandler) alive(w http.ResponseWriter, r *http.Request) {
	config := h.state.current()
	if config == nil || clientAddr(r) != config.Network.Address.Addr() {
		h.unknownPath(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// askTFTP sends a packet that is not a request, so that no transfer starts, and
// waits until the server has received a packet. It repeats the packet, because
// UDP loses some, above all in a flood.
func (l *lab) askTFTP(ctx context.Context) error {
	before := l.tftp.Received()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.tftp.Addr()))
	if err != nil {
		return fmt.Errorf("tftp: %w", err)
	}
	defer conn.Close()
	const ask = 50 // looks between two packets
	const look = 20 * time.Millisecond
	for n := 0; ; n++ {
		if n%ask == 0 {
			// An error here shows as a packet that is not received.
			_, _ = conn.Write([]byte{0, 0})
		}
		timer := time.NewTimer(look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.New("tftp: the server does not receive packets")
		}
		if l.tftp.Received() != before {
			return nil
		}
	}
}
