// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"net"
	"net/netip"
	"sync"
)

const (
	maxConns        = 256
	maxConnsPerPeer = 16
)

// limitedListener closes at once what comes beyond the limits, so that one
// client can't take the server from the others. The server's own address is
// exempt: it asks whether it is alive, above all when it is under attack.
type limitedListener struct {
	net.Listener
	own     netip.Addr
	refused func()

	mu    sync.Mutex
	total int
	peers map[netip.Addr]int
}

func limitListener(l net.Listener, own netip.Addr, refused func()) *limitedListener {
	return &limitedListener{Listener: l, own: own, refused: refused, peers: map[netip.Addr]int{}}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := peerOf(conn)
		if l.enter(peer) {
			// The type matters: sendfile needs the *net.TCPConn's ReadFrom.
			if tcp, ok := conn.(*net.TCPConn); ok {
				return &limitedConn{TCPConn: tcp, leave: sync.OnceFunc(func() { l.leave(peer) })}, nil
			}
			l.leave(peer)
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

func (l *limitedListener) enter(peer netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if peer != l.own && (l.total >= maxConns || l.peers[peer] >= maxConnsPerPeer) {
		return false
	}
	l.total++
	l.peers[peer]++
	return true
}

func (l *limitedListener) leave(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}

type limitedConn struct {
	*net.TCPConn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.TCPConn.Close()
}
