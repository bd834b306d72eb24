// SPDX-License-Identifier: Apache-2.0

package netboot

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
	// checkAlive is how often the server asks itself whether it is well.
	checkAlive = 5 * time.Second
	// aliveLimit is how long the answers may take, half of what the watchdog
	// waits: a guest that is emulated on a busy host is slow, not dead.
	aliveLimit = 30 * time.Second
	// alivePath answers the server itself, and nobody else.
	alivePath = "/alive"
)

// feedWatchdog calls Alive for as long as the server is well, until ctx ends.
// A server that hangs hangs here as well, or fails its own questions; either
// way its watchdog goes hungry.
func (s *Server) feedWatchdog(ctx context.Context) {
	tick := time.NewTicker(checkAlive)
	defer tick.Stop()
	well := true
	for {
		switch err := s.check(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			well = true
			s.options.Alive()
		case well:
			well = false
			s.log.Error("not all services answer; the watchdog is not fed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// check asks every service that is to serve, the way its clients do as far as
// a machine can ask itself.
func (s *Server) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aliveLimit)
	defer cancel()
	s.keeper.current() // behind its lock is all that anybody serves
	err := askAgent(ctx, s.agent.Addr())
	s.mu.Lock()
	l := s.lab
	s.mu.Unlock()
	if l == nil {
		return err // nothing to serve yet, or it failed and is tried again
	}
	err = errors.Join(err, l.dhcp.Check(aliveLimit), l.askHTTP(ctx), l.askTFTP(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lab != l {
		return nil // what did not answer was about to end
	}
	return err
}

// askAgent speaks plain HTTP to the agent API, which answers that in clear
// text: enough to know that connections are accepted and served.
func askAgent(ctx context.Context, address net.Addr) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return fmt.Errorf("agent API: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err == nil {
		_, err = conn.Read(make([]byte, 16))
	}
	if err != nil {
		return fmt.Errorf("agent API: %w", err)
	}
	return nil
}

// askHTTP fetches a page from the lab's HTTP server.
func (l *lab) askHTTP(ctx context.Context) error {
	own := l.network.Address.Addr()
	url := "http://" + netip.AddrPortFrom(own, l.renderer.port).String() + alivePath
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
		return fmt.Errorf("http: answers its own question with %s", resp.Status)
	}
	return nil
}

func (h *labHandler) alive(w http.ResponseWriter, r *http.Request) {
	config := h.keeper.current()
	if config == nil || clientAddr(r) != config.Network.Address.Addr() {
		h.unknownPath(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// askTFTP sends what is no request, which costs no transfer, and waits until
// the server has taken up a packet. It repeats itself: UDP may be lost, and
// under a flood is.
func (l *lab) askTFTP(ctx context.Context) error {
	before := l.tftp.Received()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.tftp.Addr()))
	if err != nil {
		return fmt.Errorf("tftp: %w", err)
	}
	defer conn.Close()
	const ask, look = 50, time.Millisecond * 20
	for n := 0; ; n++ {
		if n%ask == 0 {
			// A refused packet shows as no answer.
			_, _ = conn.Write([]byte{0, 0})
		}
		timer := time.NewTimer(look)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.New("tftp: packets are not taken up")
		}
		if l.tftp.Received() != before {
			return nil
		}
	}
}
