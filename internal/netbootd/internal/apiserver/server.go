// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// heartbeat is how often a stream has a record when nothing changed.
	heartbeat = 10 * time.Second
	// coalesce is the minimum pause between two Updates on one stream, and maxCoalesce
	// the maximum of what streamShare demands.
	coalesce    = 200 * time.Millisecond
	maxCoalesce = time.Second
	// streamShare bounds the part of the time that is spent on a stream to one in about
	// this many: while many machines change, an emulated server encodes their states
	// less often.
	streamShare = 10
)

// pauseAfter returns the pause after an Update that took a while to send.
func pauseAfter(took time.Duration) time.Duration {
	return min(max(coalesce, streamShare*took), maxCoalesce)
}

// Backend carries out the requests: netbootd, or the fake of netbootdtest. Its
// methods must be safe for concurrent use.
type Backend interface {
	// Admit decides whether the manager of this epoch, 0 if it has sent none, may
	// request a change; the error wraps ErrFenced. It is called before each request
	// for a change.
	Admit(epoch int64) error
	// PutServer puts c, which was decoded from raw, in force, or changes nothing and
	// returns an error. The error wraps ErrInvalid when c can never be served.
	PutServer(ctx context.Context, raw []byte, c *netbootapi.ServerConfig) error
	// PutMachine puts the entry of a machine in force, or changes nothing and returns
	// an error. The error wraps ErrInvalid when the entry can never be served.
	PutMachine(ctx context.Context, uid string, entry netbootapi.Entry) error
	// DeleteMachine removes a machine, if there is one.
	DeleteMachine(ctx context.Context, uid string) error
	// Renew makes later connections use c, also after a restart, or changes
	// nothing and returns an error.
	Renew(ctx context.Context, c netbootapi.ServerCredentials) error
	// Changes returns what changed since a position and a channel that is closed at
	// the next change; the whole state if the position is unknown. Neither side may
	// modify the Update afterwards.
	Changes(after netbootapi.Position) (netbootapi.Update, <-chan struct{})
	// Events returns the events after a position, and a channel that is closed at the
	// next event.
	Events(after netbootapi.Position) (EventBatch, <-chan struct{})
	// BlobOffset returns how many bytes of a blob are stored, and whether the
	// blob is complete and verified.
	BlobOffset(blob netbootapi.Blob) (offset int64, complete bool, err error)
	// WriteBlob appends r to the stored part and verifies the digest once the
	// blob is complete. When r fails, it keeps what it has read.
	WriteBlob(ctx context.Context, blob netbootapi.Blob, offset int64, r io.Reader) error
	// Metrics returns the counters of this run.
	Metrics() netbootapi.Metrics
	// DialTarget connects to a declared machine.
	DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error)
}

// EventBatch is a part of the events of one run of netbootd.
type EventBatch struct {
	// Store identifies the run.
	Store string
	// Lost is how many events between the position that was asked for and the first of
	// Events are gone.
	Lost uint64
	// Events are in order; none if there are no further ones.
	Events []netbootapi.Event
}

// Server serves the netboot API over mutual TLS.
type Server struct {
	tcp      *net.TCPListener
	listener net.Listener
	http     *http.Server
	handler  *handler
}

// ServerOptions configures a Server. All fields are required but Log.
type ServerOptions struct {
	// Address to listen on; port 0 selects a free one.
	Address string
	// TLS is the result of [netbootapi.ServerTLS] or [netbootapi.Identity.TLS].
	TLS     *tls.Config
	Backend Backend
	Log     logr.Logger
}

// NewServer validates the options and binds the address.
func NewServer(o ServerOptions) (*Server, error) {
	if o.TLS == nil || o.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("netboot API: the TLS configuration must require and verify client certificates")
	}
	listener, err := listen(o.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for the manager: %w", err)
	}
	h := &handler{backend: o.Backend, log: o.Log}
	return &Server{
		tcp:      listener,
		listener: tls.NewListener(limit(listener), o.TLS),
		handler:  h,
		http: &http.Server{
			Handler:           h.mux(),
			ReadHeaderTimeout: 20 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          log.New(logWriter{o.Log.V(1)}, "", 0),
		},
	}, nil
}

// Addr returns the address on which the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve blocks until ctx ends, then closes every connection, including streams
// and proxied connections, and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	err := s.http.Serve(s.listener)
	s.handler.proxies.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the netboot API: %w", err)
}

// Close releases the port of a Server on which Serve was not called.
func (s *Server) Close() error { return s.listener.Close() }

// logWriter logs the errors of net/http, mostly failed TLS handshakes.
type logWriter struct{ log logr.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	l.log.Info("netboot API", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}

type handler struct {
	backend Backend
	log     logr.Logger
	proxies sync.WaitGroup
}

func (h *handler) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/server", h.fenced(h.putServer))
	mux.HandleFunc("PUT /v1/machines/{uid}", h.fenced(h.putMachine))
	mux.HandleFunc("DELETE /v1/machines/{uid}", h.fenced(h.deleteMachine))
	mux.HandleFunc("PUT /v1/credentials", h.fenced(h.putCredentials))
	mux.HandleFunc("GET /v1/watch", h.watch)
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("GET /v1/metrics", h.metrics)
	mux.HandleFunc("HEAD /v1/blobs/{digest}", h.headBlob)
	mux.HandleFunc("PUT /v1/blobs/{digest}", h.fenced(h.putBlob))
	mux.HandleFunc("POST /v1/proxy", h.proxy)
	return mux
}

func (h *handler) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// An error here means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(h.backend.Metrics())
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	status, wire := http.StatusInternalServerError, netbootapi.ErrorReply{Message: err.Error()}
	for kind, known := range netbootapi.ErrorKinds {
		if errors.Is(err, known.Err) {
			wire.Kind, status = kind, known.Status
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		wire.Kind, status = "Invalid", http.StatusRequestEntityTooLarge
	}
	wire.Missing = missingOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(wire)
}

// missingOf returns the blobs of a MissingError.
func missingOf(err error) []netbootapi.Blob {
	if missing := (*netbootapi.MissingError)(nil); errors.As(err, &missing) {
		return missing.Blobs
	}
	return nil
}
