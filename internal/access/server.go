// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// SocketOptions configures a [SocketServer].
type SocketOptions struct {
	// Socket is the path of the UNIX socket, in a directory that only its owner
	// can access.
	Socket  string
	Backend HostBackend
	// Log receives failures of the manager. The zero Logger discards.
	Log logr.Logger
}

// SocketServer serves the host API on a UNIX socket with mode 0600.
type SocketServer struct {
	listener net.Listener
	backend  HostBackend
	log      logr.Logger
}

// ListenSocket binds the socket, replacing a stale one of a dead manager. It returns an
// error if a running manager serves the socket. The caller must call Serve, which
// also removes the socket.
func ListenSocket(o SocketOptions) (*SocketServer, error) {
	if o.Backend == nil {
		return nil, errors.New("access.SocketOptions.Backend is not set")
	}
	if err := hostfs.RemoveStaleSocket("unix", o.Socket); errors.Is(err, hostfs.ErrSocketInUse) {
		return nil, fmt.Errorf("another manager serves %s: stop it first, or use a different runtime directory", o.Socket)
	} else if err != nil {
		return nil, fmt.Errorf("replacing the manager's socket: %w", err)
	}
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for commands on this host: %w", err)
	}
	// Until then the directory's mode protects the socket.
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("restricting access to the manager's socket: %w", err)
	}
	return &SocketServer{listener: listener, backend: o.Backend, log: discardUnset(o.Log)}, nil
}

// Serve serves requests until ctx ends, removes the socket and returns nil. It may be
// called once.
func (s *SocketServer) Serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/capacity", respond(s, s.backend.Capacity))
	mux.HandleFunc("GET /v1/unobserved", respond(s, func(ctx context.Context) ([]Object, error) {
		objects, err := s.backend.Unobserved(ctx)
		return append([]Object{}, objects...), err // not null
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: serverLog(s.log)}
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
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the manager's socket: %w", err)
	}
	return nil
}

// respond serves a value as JSON, and an error as its text.
func respond[V any](s *SocketServer, get func(context.Context) (V, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := get(r.Context())
		if err != nil {
			if statusOf(err) == http.StatusInternalServerError {
				s.log.Error(err, "Failed to serve the host API", "path", r.URL.Path)
			}
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client has gone
	}
}

// serverLog makes net/http report faults of clients, such as handshakes that fail, only in
// detailed logs.
func serverLog(l logr.Logger) *log.Logger {
	return slog.NewLogLogger(logr.ToSlogHandler(l), slog.LevelDebug)
}
