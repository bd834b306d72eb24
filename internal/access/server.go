// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Options configures a [SocketServer].
type Options struct {
	// Socket is the path of the UNIX socket, in a directory that only its owner
	// can access.
	Socket string
	// Loopback is an additional address to listen on, HOST:PORT, empty for none.
	// It must be a loopback address in a pod's network namespace, where the API
	// server forwards connections of clients that may create pods/portforward.
	Loopback string
	Backend  Backend
	// Log receives failures of the manager. The zero Logger discards.
	Log logr.Logger
}

// SocketServer serves a [Handler] on a UNIX socket with mode 0600, and optionally
// on a loopback address.
type SocketServer struct {
	listeners []net.Listener
	handler   *Handler
}

// New binds the socket, replacing a stale one of a dead manager. It returns an
// error if a running manager serves the socket. The caller must call Serve, which
// also removes the socket.
func New(o Options) (*SocketServer, error) {
	if o.Backend == nil {
		return nil, errors.New("access.Options.Backend is not set")
	}
	log := o.Log
	if log.GetSink() == nil {
		log = logr.Discard()
	}
	if err := hostfs.RemoveStaleSocket("unix", o.Socket); errors.Is(err, hostfs.ErrSocketInUse) {
		return nil, fmt.Errorf("another manager serves %s: stop it first, or use a different runtime directory", o.Socket)
	} else if err != nil {
		return nil, fmt.Errorf("replacing the access socket: %w", err)
	}
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for kubectl-lab: %w", err)
	}
	// Until then the directory's mode protects the socket.
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("restricting access to the access socket: %w", err)
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
		return nil, fmt.Errorf("access address %q is not of the form 127.0.0.1:PORT: "+
			"only loopback is allowed, because the API has no authentication", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for kubectl-lab: %w", err)
	}
	return listener, nil
}

// Addrs returns the addresses that the server listens on, the socket first.
func (s *SocketServer) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Serve serves requests until ctx ends, then ends all streams, removes the socket
// and returns nil. It may be called once.
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
