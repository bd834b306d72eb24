// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/go-logr/logr"
)

// Options of a [SocketServer].
type Options struct {
	// Socket is the path of the UNIX socket, in a directory that only its
	// owner can enter.
	Socket string
	// Loopback is an address to listen at besides, HOST:PORT, empty for none.
	// It must be one of the loopback network, and that network a pod's own:
	// the API server forwards to it for whoever may create pods/portforward.
	Loopback string
	Backend  Backend
	// Log takes the manager's own failures. The zero Logger discards.
	Log logr.Logger
}

// SocketServer serves a [Handler] on a UNIX socket of mode 0600, and on a
// loopback address when asked to.
type SocketServer struct {
	listeners []net.Listener
	handler   *Handler
}

// New binds the socket, replacing one that a dead manager left behind. It
// fails when a live one answers there. Call Serve, which also cleans up.
func New(o Options) (*SocketServer, error) {
	if o.Backend == nil {
		return nil, errors.New("access.Options.Backend is not set")
	}
	log := o.Log
	if log.GetSink() == nil {
		log = logr.Discard()
	}
	if err := removeStale(o.Socket); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for kubectl-lab: %w", err)
	}
	// The directory keeps others out until this is done.
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("closing the access socket to others: %w", err)
	}
	listeners := []net.Listener{listener}
	if o.Loopback != "" {
		loopback, err := listenLoopback(o.Loopback)
		if err != nil {
			listener.Close()
			return nil, err
		}
		listeners = append(listeners, loopback)
	}
	return &SocketServer{listeners: listeners, handler: NewHandler(o.Backend, log)}, nil
}

func listenLoopback(address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("the access address %q is not of the form 127.0.0.1:PORT; elsewhere everybody could connect", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for kubectl-lab: %w", err)
	}
	return listener, nil
}

func removeStale(socket string) error {
	info, err := os.Lstat(socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the access socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way of the access socket and is no socket: move it away", socket)
	}
	if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("another manager answers at %s: stop it first, or give this one a runtime directory of its own", socket)
	}
	if err := os.Remove(socket); err != nil {
		return fmt.Errorf("removing the access socket of an earlier manager: %w", err)
	}
	return nil
}

// Addrs are the addresses it listens at, the socket's first.
func (s *SocketServer) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Serve answers until ctx ends, then ends every stream, removes the socket and
// returns nil. Call it once.
func (s *SocketServer) Serve(ctx context.Context) error {
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		server.Close()
	})
	ended := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() {
			err := server.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			ended <- err
		}()
	}
	err := <-ended
	if stop() {
		server.Close()
	} else {
		<-stopped
	}
	for range len(s.listeners) - 1 {
		err = errors.Join(err, <-ended)
	}
	s.handler.Close()
	if err != nil {
		return fmt.Errorf("serving the access socket: %w", err)
	}
	return nil
}
