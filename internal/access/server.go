// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
)

// Options of a [SocketServer].
type Options struct {
	// Socket is the path of the UNIX socket, in a directory that only its
	// owner can enter.
	Socket  string
	Backend Backend
	// Log takes the manager's own failures. The zero Logger discards.
	Log logr.Logger
}

// SocketServer serves a [Handler] on a UNIX socket of mode 0600.
type SocketServer struct {
	listener net.Listener
	handler  *Handler
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
	return &SocketServer{listener: listener, handler: NewHandler(o.Backend, log)}, nil
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

// Addr is the socket's address.
func (s *SocketServer) Addr() net.Addr { return s.listener.Addr() }

// Serve answers until ctx ends, then ends every stream, removes the socket and
// returns nil. Call it once.
func (s *SocketServer) Serve(ctx context.Context) error {
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		server.Close()
	})
	err := server.Serve(s.listener)
	if stop() {
		server.Close()
	} else {
		<-stopped
	}
	s.handler.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the access socket: %w", err)
}
