// SPDX-License-Identifier: Apache-2.0

package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

// Server is a TFTP server. New binds its socket, Serve runs it.
type Server struct {
	opts Options
	conn *net.UDPConn
	addr netip.AddrPort

	received atomic.Uint64

	mu      sync.Mutex
	running map[netip.AddrPort]*running
	clients map[netip.Addr]int
	wg      sync.WaitGroup
}

// maxFailures is how often in a row a read may fail before Serve gives up.
const maxFailures = 100

// running is a transfer in progress.
type running struct {
	request []byte
	cancel  context.CancelCauseFunc
}

// errReplaced ends a transfer whose client sent a new request from the same port.
// It must not be sent to the client, where it could abort the new request.
var errReplaced = errors.New("the client requested another file from the same port")

// New checks the options and binds the socket, so that a port in use is an error
// here. Serve closes the socket.
func New(o Options) (*Server, error) {
	if o.Handler == nil {
		return nil, errors.New("tftp: Options.Handler is not set")
	}
	setDefaults(&o)
	addr, err := net.ResolveUDPAddr("udp4", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("tftp: resolving address %q: %w", o.Addr, err)
	}
	conn, err := net.ListenUDP("udp4", addr)
	if err != nil {
		return nil, fmt.Errorf("tftp: listening: %w", err)
	}
	// Replies must come from the address to which the request was sent.
	if err := ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("tftp: enabling destination addresses: %w", err), conn.Close())
	}
	return &Server{
		opts:    o,
		conn:    conn,
		addr:    unmap(conn.LocalAddr().(*net.UDPAddr).AddrPort()),
		running: map[netip.AddrPort]*running{},
		clients: map[netip.Addr]int{},
	}, nil
}

func setDefaults(o *Options) {
	positive := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	positive(&o.MaxTransfers, 256)
	positive(&o.MaxPerClient, 8)
	positive(&o.MaxBlockSize, maxBlockSize)
	positive(&o.MaxWindow, 64)
	positive(&o.Retries, 6)
	o.MaxBlockSize = max(minBlockSize, min(o.MaxBlockSize, maxBlockSize))
	o.MaxWindow = min(o.MaxWindow, 1<<15) // half the block numbers, to distinguish old from new
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Addr returns the address on which the server listens.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Received returns how many packets were read from the listening port. A live
// server reads every packet, so this serves as a health check.
func (s *Server) Received() uint64 { return s.received.Load() }

// Serve handles requests until ctx ends; then it aborts the running transfers,
// waits for them and returns nil. It returns an error if it can no longer read
// requests. It must be called only once.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer func() {
		cancel()
		stop()
		_ = s.conn.Close()
		s.wg.Wait()
	}()
	buf, oob := make([]byte, 4096), make([]byte, 256)
	for failures := 0; ; {
		n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// An ICMP error for an earlier reply, or a temporary lack of memory.
			if failures++; failures > maxFailures || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("tftp: reading requests: %w", err)
			}
			s.opts.Log.Warn("tftp: cannot read request", "err", err)
			continue
		}
		failures = 0
		s.received.Add(1)
		s.handle(ctx, bytes.Clone(buf[:n]), unmap(from), s.localAddr(oob[:oobn]))
	}
}

// localAddr returns the address to which a request was sent.
func (s *Server) localAddr(oob []byte) netip.Addr {
	var cm ipv4.ControlMessage
	if s.addr.Addr().IsUnspecified() && cm.Parse(oob) == nil {
		broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
		if a, ok := netip.AddrFromSlice(cm.Dst); ok && !a.Unmap().IsMulticast() && a.Unmap() != broadcast {
			return a.Unmap()
		}
	}
	return s.addr.Addr()
}

// handle starts a transfer for a request or refuses the request.
func (s *Server) handle(ctx context.Context, packet []byte, client netip.AddrPort, local netip.Addr) {
	req, err := parseRequest(packet)
	if errors.Is(err, errNotRequest) {
		return
	}
	if err == nil {
		err = s.admit(ctx, packet, req, client, local)
	}
	var refused *remoteError
	if errors.As(err, &refused) {
		s.refuse(client, req.name, refused)
	}
}

// admit starts a transfer unless there are too many. It ignores a repeated
// request, which the transfer that it started will answer.
func (s *Server) admit(ctx context.Context, packet []byte, req request, client netip.AddrPort, local netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.running[client]
	switch {
	case old != nil && bytes.Equal(old.request, packet):
		return nil
	case old != nil:
		// The client abandoned the transfer without an error and reuses its port.
		old.cancel(errReplaced)
	case len(s.running) >= s.opts.MaxTransfers:
		return &remoteError{codeUndefined, "too many transfers, retry later"}
	case s.clients[client.Addr()] >= s.opts.MaxPerClient:
		return &remoteError{codeUndefined, "too many transfers from this address"}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	entry := &running{request: packet, cancel: cancel}
	s.running[client] = entry
	s.clients[client.Addr()]++
	tr := &transfer{opts: &s.opts, req: req, client: client, local: local, start: time.Now()}
	s.wg.Go(func() {
		defer cancel(nil)
		tr.run(ctx)
		s.release(client, entry)
	})
	return nil
}

func (s *Server) release(client netip.AddrPort, entry *running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[client] == entry {
		delete(s.running, client)
	}
	if s.clients[client.Addr()]--; s.clients[client.Addr()] == 0 {
		delete(s.clients, client.Addr())
	}
}

// refuse answers from the listening socket, so that a refused request costs no
// socket.
func (s *Server) refuse(client netip.AddrPort, name string, e *remoteError) {
	s.opts.Events(Event{Kind: Abort, Client: client, Name: name, Err: e.text})
	if _, err := s.conn.WriteToUDPAddrPort(e.packet(), client); err != nil {
		s.opts.Log.Debug("tftp: cannot send error", "client", client, "err", err)
	}
}
