// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// stuckConn returns one request and blocks while sending the reply.
type stuckConn struct {
	request  []byte
	writing  chan struct{}
	released chan struct{}
	closed   chan struct{}
	once     sync.Once
}

func (c *stuckConn) ReadFrom(b []byte) (int, netip.AddrPort, error) {
	if n := copy(b, c.request); n > 0 {
		c.request = nil
		return n, netip.AddrPort{}, nil
	}
	<-c.closed
	return 0, netip.AddrPort{}, net.ErrClosed
}

func (c *stuckConn) WriteTo([]byte, Peer) error {
	close(c.writing)
	<-c.released
	return nil
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func TestCheckDetectsHungServer(t *testing.T) {
	c := &stuckConn{
		request: message(t, dhcpv4.MessageTypeDiscover, known).ToBytes(),
		writing: make(chan struct{}), released: make(chan struct{}), closed: make(chan struct{}),
	}
	s, err := New(Options{Config: config(), Policy: declared(), Conn: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(0); err != nil {
		t.Errorf("Check before Serve = %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	<-c.writing
	if err := s.Check(0); err == nil {
		t.Error("Check of a server that hangs while sending = nil, want an error")
	}
	if err := s.Check(time.Hour); err != nil {
		t.Errorf("Check of a busy server within the limit = %v, want nil", err)
	}
	close(c.released)
	for deadline := time.Now().Add(limit); s.Check(0) != nil; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("Check %s after the server resumed: got an error, want none", limit)
		}
	}
	if got := s.Leases(); len(got) != 1 {
		t.Errorf("got leases %+v, want only that of the request", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
