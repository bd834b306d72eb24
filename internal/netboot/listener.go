// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"net"
	"net/netip"
	"sync"
)

const (
	// maxConnsPerPeer is how many connections one address may have. A declared
	// machine's address has them whatever others do, so that there are at most
	// this many for each machine, and maxStrangerConns.
	maxConnsPerPeer = 16
	// maxStrangerConns is what all addresses of no declared machine share: a
	// guest can take as many as the network has, and gets nothing by any.
	maxStrangerConns = 64
)

// limitedListener closes at once what comes beyond the limits, so that no
// client can take the server from a declared machine. The server's own address
// is exempt: it asks whether it is alive, above all when it is under attack.
type limitedListener struct {
	net.Listener
	own      netip.Addr
	declared func(netip.Addr) bool
	refused  func()

	mu        sync.Mutex
	strangers int
	peers     map[netip.Addr]int
}

// limitListener limits l. declared tells whether an address is a declared
// machine's at present; refused is called for each connection turned away.
func limitListener(l net.Listener, own netip.Addr, declared func(netip.Addr) bool, refused func()) *limitedListener {
	return &limitedListener{Listener: l, own: own, declared: declared, refused: refused, peers: map[netip.Addr]int{}}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		// The type matters: sendfile needs the *net.TCPConn's ReadFrom.
		if tcp, ok := conn.(*net.TCPConn); ok {
			if leave := l.enter(peerOf(tcp)); leave != nil {
				return &limitedConn{TCPConn: tcp, leave: leave}, nil
			}
		}
		_ = conn.Close()
		l.refused()
	}
}

func peerOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// enter counts a connection, and returns what ends that, or nil if it is one
// too many. What it counts as stays, though machines are declared and removed.
func (l *limitedListener) enter(peer netip.Addr) (leave func()) {
	if peer == l.own {
		return func() {}
	}
	stranger := 0
	if !l.declared(peer) {
		stranger = 1
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[peer] >= maxConnsPerPeer || l.strangers+stranger > maxStrangerConns {
		return nil
	}
	l.peers[peer]++
	l.strangers += stranger
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.strangers -= stranger
		if l.peers[peer]--; l.peers[peer] == 0 {
			delete(l.peers, peer)
		}
	})
}

type limitedConn struct {
	*net.TCPConn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.TCPConn.Close()
}
