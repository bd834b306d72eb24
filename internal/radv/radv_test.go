// SPDX-License-Identifier: Apache-2.0

package radv

import (
	"context"
	"errors"
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
		return 0, errors.New("sent to " + got)
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

func TestAnswersSolicitations(t *testing.T) {
	l, stop := serve(t)
	for _, p := range []packet{
		{data: solicit},
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 8, HopLimit: 255}},                          // another link
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 254}},                          // routed
		{data: []byte{135, 0, 0, 0, 0, 0, 0, 0}, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}}, // no solicitation
		{data: solicit[:7], cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}},                      // cut
		{err: errors.New("network is down")},                                                          // passes
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 255}},                          // answered
		{data: solicit, cm: &ipv6.ControlMessage{IfIndex: 7, HopLimit: 254}},                          // and it goes on
	} {
		l.in <- p
	}
	want := []byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 0, 1}
	if diff := cmp.Diff(want, <-l.out); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Errorf("Serve = %v", err)
	}
	if n := len(l.out); n != 0 {
		t.Errorf("%d answers too many", n)
	}
}

func TestServeEndsWhenTheSocketIsGone(t *testing.T) {
	l, stop := serve(t)
	_ = l.Close()
	if err := stop(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{Interface: "no-such-nic"}); err == nil {
		t.Error("no error for a missing interface")
	}
}

// FuzzSolicitation: only router solicitations are taken for some.
func FuzzSolicitation(f *testing.F) {
	f.Add([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0, 0, 1}) // with the asker's address, as iPXE sends it
	f.Add(advertisement(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if solicitation(b) && (len(b) < 8 || b[0] != typeSolicitation || b[1] != 0) {
			t.Errorf("%x was taken for a solicitation", b)
		}
	})
}
