// SPDX-License-Identifier: Apache-2.0

package ra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/ipv6"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type packet struct {
	data []byte
	cm   *ipv6.ControlMessage
	err  error
}

// link is a packetConn over channels.
type link struct {
	in     chan packet
	out    chan []byte
	closed chan struct{}
}

func (l *link) ReadFrom(b []byte) (int, *ipv6.ControlMessage, net.Addr, error) {
	select {
	case p := <-l.in:
		return copy(b, p.data), p.cm, nil, p.err
	case <-l.closed:
		return 0, nil, nil, net.ErrClosed
	}
}

func (l *link) WriteTo(b []byte, _ *ipv6.ControlMessage, dst net.Addr) (int, error) {
	if got := dst.String(); got != "ff02::1%lab0" {
		return 0, fmt.Errorf("sent to %s, want ff02::1%%lab0", got)
	}
	l.out <- append([]byte(nil), b...)
	return len(b), nil
}

func (l *link) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func serve(t *testing.T) (*link, func() error) {
	t.Helper()
	l := &link{in: make(chan packet), out: make(chan []byte, 10), closed: make(chan struct{})}
	s := &Server{
		conn: l, log: slog.New(slog.DiscardHandler),
		ifi: &net.Interface{Index: 7, Name: "lab0", HardwareAddr: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	return l, func() error { cancel(); return <-ended }
}

var solicit = []byte{133, 0, 0, 0, 0, 0, 0, 0}

func TestServeAnswersSolicitations(t *testing.T) {
	l, stop := serve(t)
	for _, p := range []packet{
		{data: solicit},
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 8, HopLimit: 255}},                          // another link
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 254}},                          // routed
		{data: []byte{135, 0, 0, 0, 0, 0, 0, 0}, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}}, // not a solicitation
		{data: solicit[:7], cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}},                      // truncated
		{err: errors.New("network is down")},                                                          // a temporary error
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}},                          // answered
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 254}},                          // still running
	} {
		l.in <- p
	}
	want := []byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 0, 1}
	if diff := cmp.Diff(want, <-l.out); diff != "" {
		t.Errorf("advertisement (-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if n := len(l.out); n != 0 {
		t.Errorf("got %d more advertisements, want 1 in total", n)
	}
}

func TestServeEndsWhenSocketCloses(t *testing.T) {
	l, stop := serve(t)
	_ = l.Close()
	if err := stop(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want nil or net.ErrClosed", err)
	}
}

func TestNewRejectsMissingInterface(t *testing.T) {
	if _, err := New(Options{Interface: "no-such-nic"}); err == nil {
		t.Error("New with a missing interface = nil, want an error")
	}
}

// FuzzSolicitation checks that only router solicitations are recognised.
func FuzzSolicitation(f *testing.F) {
	f.Add([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 0, 1}) // with the sender's address, as sent by iPXE
	f.Add(advertisement(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if solicitation(b) && (len(b) < 8 || b[0] != typeSolicitation || b[1] != 0) {
			t.Errorf("solicitation(%x) = true, want false", b)
		}
	})
}
