// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

const (
	// maxConnsPerPeer bounds the connections of one address. The limits of
	// declared machines are independent, so the total is at most this many for
	// each machine, plus maxStrangerConns.
	maxConnsPerPeer = 16
	// maxStrangerConns bounds the connections of all undeclared addresses
	// together: a guest can use every address of the network.
	maxStrangerConns = 64
)

// listenHTTP listens for the lab's machines. An installation opens about 70 connections,
// most for one small request. So there are no keepalive probes, which cost four system
// calls for each connection and are not needed: all reads and writes have deadlines. Nor is
// there multipath TCP, which costs memory and time for each connection; no machine has two
// paths to its server. Where the system can, a connection is accepted when its client has
// sent something, so that the first read does not have to wait.
func listenHTTP(address netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1, Control: deferAccept}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp4", address.String())
}

// limitedListener closes connections beyond the limits at once, so that no client
// can block a declared machine. The server's own address is exempt: its health
// checks must work during an attack.
type limitedListener struct {
	net.Listener
	own      netip.Addr
	declared func(netip.Addr) bool
	refused  func()

	mu        sync.Mutex
	strangers int
	peers     map[netip.Addr]int
}

// limitListener limits l. declared reports whether an address belongs to a
// declared machine now; refused is called for each refused connection.
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

// enter counts a connection and returns the function that removes it from the
// count, or nil if the limit is reached. A connection remains a stranger's or a
// machine's even if the declared machines change.
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
