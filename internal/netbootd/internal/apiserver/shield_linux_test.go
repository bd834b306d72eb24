// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/namespacetest"
)

// link creates a pair of interfaces, the second in the network namespace of a thread, and
// gives both an address.
func link(t *testing.T, name, address, peer, peerAddress string, thread int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: peer}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	other, err := netlink.LinkByName(peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsPid(other, thread); err != nil {
		t.Fatal(err)
	}
	up(t, name, address)
}

func up(t *testing.T, name, address string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return
	}
	a, err := netlink.ParseAddr(address)
	if err == nil {
		err = errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	}
	if err != nil {
		t.Error(err)
	}
}

// The netboot API accepts connections from the uplink and none from the lab, whichever of
// its addresses a machine connects to.
func TestShield(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNET) {
		return
	}
	listener, err := listen("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &Server{tcp: listener}
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	// The other ends, a manager's and a machine's, are in a namespace of another thread.
	thread, ready := make(chan int), make(chan struct{})
	dials := make(chan func())
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		thread <- unix.Gettid()
		<-ready
		for dial := range dials {
			dial()
		}
	}()
	defer close(dials)
	tid := <-thread
	link(t, "uplink", "10.0.2.15/24", "manager", "10.0.2.2/24", tid)
	link(t, "lab", "10.88.0.1/24", "machine", "10.88.0.11/24", tid)
	close(ready)
	do := func(f func()) {
		done := make(chan struct{})
		dials <- func() {
			defer close(done)
			f()
		}
		<-done
	}
	do(func() {
		up(t, "manager", "10.0.2.2/24")
		up(t, "machine", "10.88.0.11/24")
	})
	connects := func(address string, limit time.Duration) (err error) {
		do(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			var conn net.Conn
			if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort(address, port)); err == nil {
				_ = conn.Close()
			}
		})
		return err
	}
	const patience, silence = time.Minute, 3 * time.Second
	for _, address := range []string{"10.0.2.15", "10.88.0.1"} {
		if err := connects(address, patience); err != nil {
			t.Fatalf("%s before: got error %v, want none", address, err)
		}
	}
	if err := s.Shield("lab"); err != nil {
		t.Fatal(err)
	}
	if err := connects("10.0.2.15", patience); err != nil {
		t.Errorf("the uplink: got error %v, want none", err)
	}
	if err := connects("10.88.0.1", silence); !errors.Is(err, context.DeadlineExceeded) && !os.IsTimeout(err) {
		t.Errorf("the lab: got error %v, want no answer", err)
	}
	// After another change of the lab's interface, the last one counts.
	if err := s.Shield("uplink"); err != nil {
		t.Fatal(err)
	}
	if err := connects("10.88.0.1", patience); err != nil {
		t.Errorf("an interface that is not shielded any more: got error %v, want none", err)
	}
	if err := s.Shield("none"); err == nil {
		t.Error("an interface that does not exist: got no error, want one")
	}
}
