// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

const (
	// maxConns bounds the connections of the netboot API: each manager's streams and
	// uploads, and the proxied connections of its users.
	maxConns = 512
	// maxConnsPerPeer leaves room for another address while one has too many. All managers
	// that reach a virtual machine by its forwarded port have one address.
	maxConnsPerPeer = 448
)

// listen binds an address. The listener does not use multipath TCP, whose sockets take no
// filter.
func listen(address string) (*net.TCPListener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// limitedListener closes connections beyond the limits at once, before their TLS handshake.
type limitedListener struct {
	net.Listener

	mu    sync.Mutex
	total int
	peers map[netip.Addr]int
}

func limit(l net.Listener) *limitedListener {
	return &limitedListener{Listener: l, peers: map[netip.Addr]int{}}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if leave := l.enter(peerOf(conn)); leave != nil {
			return &limitedConn{Conn: conn, leave: leave}, nil
		}
		_ = conn.Close()
	}
}

func peerOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// enter counts a connection and returns the function that removes it from the count, or nil
// if a limit is reached.
func (l *limitedListener) enter(peer netip.Addr) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.peers[peer] >= maxConnsPerPeer {
		return nil
	}
	l.total++
	l.peers[peer]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if l.peers[peer]--; l.peers[peer] == 0 {
			delete(l.peers, peer)
		}
	})
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
