// SPDX-License-Identifier: Apache-2.0

package agent

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
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

const (
	// heartbeat is how often the whole State is sent when nothing changed.
	heartbeat = 10 * time.Second
	// coalesce is the shortest time between two States on one stream.
	coalesce = 200 * time.Millisecond
	// idleLimit ends an upload or a stream whose peer takes or gives nothing.
	idleLimit = 30 * time.Second

	headerOffset   = "Pxelab-Offset"
	headerComplete = "Pxelab-Complete"
	upgradeName    = "pxelab-tcp"
)

// Errors of a Backend that the protocol carries to the client, where
// errors.Is finds them again.
var (
	ErrUnknownBlob = errors.New("the configuration in force names no such blob")
	ErrOffset      = errors.New("the upload does not start where the stored part ends")
	ErrDigest      = errors.New("the content does not have the digest it was uploaded as")
	ErrNoSpace     = errors.New("no space left for the blob")
	ErrNoTarget    = errors.New("the address is no declared machine's")
	ErrUnreachable = errors.New("the machine does not answer")
)

// errorKinds is how those errors, and ErrInvalid, travel.
var errorKinds = map[string]struct {
	err    error
	status int
}{
	"Invalid":     {ErrInvalid, http.StatusUnprocessableEntity},
	"UnknownBlob": {ErrUnknownBlob, http.StatusNotFound},
	"Offset":      {ErrOffset, http.StatusConflict},
	"Digest":      {ErrDigest, http.StatusUnprocessableEntity},
	"NoSpace":     {ErrNoSpace, http.StatusInsufficientStorage},
	"NoTarget":    {ErrNoTarget, http.StatusForbidden},
	"Unreachable": {ErrUnreachable, http.StatusBadGateway},
}

// Backend is what the server side of the protocol stands on: netbootd itself,
// or agenttest's memory. All methods may be called at the same time.
type Backend interface {
	// Apply puts c in force, or leaves all as it was and returns an error.
	// The error wraps ErrInvalid when c can't ever be served.
	Apply(ctx context.Context, c *Config) error
	// Renew serves later connections with c, also after a restart, or leaves all
	// as it was and returns an error.
	Renew(ctx context.Context, c ServerCredentials) error
	// Observe returns the state now and a channel that is closed at the next
	// change. The State must not be modified by either side afterwards.
	Observe() (State, <-chan struct{})
	// BlobOffset returns how much of a blob is stored, and whether that is
	// all of it, verified.
	BlobOffset(digest string) (offset int64, complete bool, err error)
	// WriteBlob appends r to the stored part and verifies the digest once all
	// is here. It keeps what arrived when r fails.
	WriteBlob(ctx context.Context, digest string, offset int64, r io.Reader) error
	// DialTarget connects to a declared machine.
	DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error)
}

// Server serves the protocol over mutual TLS.
type Server struct {
	listener net.Listener
	http     *http.Server
	handler  *handler
}

// ServerOptions are all a Server needs.
type ServerOptions struct {
	// Address to listen on; port 0 takes a free one.
	Address string
	// TLS as ServerTLS makes it.
	TLS     *tls.Config
	Backend Backend
	Log     logr.Logger
}

// NewServer validates the options and binds.
func NewServer(o ServerOptions) (*Server, error) {
	if o.TLS == nil || o.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("the agent API is served to verified clients only: TLS configuration missing")
	}
	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for the manager: %w", err)
	}
	h := &handler{backend: o.Backend, log: o.Log}
	return &Server{
		listener: tls.NewListener(listener, o.TLS),
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

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve blocks until ctx ends, then closes every connection, streams and
// proxied ones included, and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	err := s.http.Serve(s.listener)
	s.handler.proxies.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the agent API: %w", err)
}

// Close releases the port of a server that was never served.
func (s *Server) Close() error { return s.listener.Close() }

// logWriter passes net/http's complaints (failed handshakes, mostly) on.
type logWriter struct{ log logr.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	l.log.Info("agent API", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}

type handler struct {
	backend Backend
	log     logr.Logger
	proxies sync.WaitGroup
}

func (h *handler) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/config", h.putConfig)
	mux.HandleFunc("PUT /v1/credentials", h.putCredentials)
	mux.HandleFunc("GET /v1/state", h.getState)
	mux.HandleFunc("GET /v1/watch", h.watch)
	mux.HandleFunc("HEAD /v1/blobs/{digest}", h.headBlob)
	mux.HandleFunc("PUT /v1/blobs/{digest}", h.putBlob)
	mux.HandleFunc("POST /v1/proxy", h.proxy)
	return mux
}

// wireError is how an error travels.
type wireError struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	status, wire := http.StatusInternalServerError, wireError{Message: err.Error()}
	for kind, known := range errorKinds {
		if errors.Is(err, known.err) {
			wire.Kind, status = kind, known.status
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		wire.Kind, status = "Invalid", http.StatusRequestEntityTooLarge
	}
	writeJSON(w, status, wire)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that went away has nobody left to tell.
	_ = json.NewEncoder(w).Encode(v)
}

type digestReply struct {
	Digest string `json:"digest"`
}

func (h *handler) putConfig(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute))
	var c Config
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxConfigBytes))
	if err := dec.Decode(&c); err != nil {
		h.fail(w, fmt.Errorf("%w: decoding the configuration: %w", ErrInvalid, err))
		return
	}
	if err := h.backend.Apply(r.Context(), &c); err != nil {
		h.fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, digestReply{Digest: c.Digest()})
}

// maxCredentials bounds what putCredentials reads.
const maxCredentials = 64 << 10

func (h *handler) putCredentials(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Minute))
	var c ServerCredentials
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCredentials)).Decode(&c); err != nil {
		h.fail(w, fmt.Errorf("%w: decoding the credentials: %w", ErrInvalid, err))
		return
	}
	err := c.Check()
	if err == nil {
		err = h.backend.Renew(r.Context(), c)
	}
	if err != nil {
		h.fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, digestReply{Digest: c.Digest()})
}

func (h *handler) getState(w http.ResponseWriter, _ *http.Request) {
	state, _ := h.backend.Observe()
	writeJSON(w, http.StatusOK, state)
}

func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		state, changed := h.backend.Observe()
		// A peer that stopped reading must not hold the stream for ever.
		_ = control.SetWriteDeadline(time.Now().Add(idleLimit))
		if enc.Encode(state) != nil || control.Flush() != nil {
			return
		}
		// Coalesce what follows; the first change after a quiet time has the
		// pause behind it already and goes out at once.
		pause := time.NewTimer(coalesce)
		select {
		case <-pause.C:
		case <-r.Context().Done():
			pause.Stop()
			return
		}
		beat.Reset(heartbeat - coalesce)
		select {
		case <-changed:
		case <-beat.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (h *handler) headBlob(w http.ResponseWriter, r *http.Request) {
	offset, complete, err := h.backend.BlobOffset(r.PathValue("digest"))
	if err != nil {
		// A HEAD has no body for the error; its kind says enough.
		status := http.StatusInternalServerError
		if errors.Is(err, ErrUnknownBlob) {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		return
	}
	w.Header().Set(headerOffset, strconv.FormatInt(offset, 10))
	w.Header().Set(headerComplete, strconv.FormatBool(complete))
}

func (h *handler) putBlob(w http.ResponseWriter, r *http.Request) {
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		h.fail(w, fmt.Errorf("%w: offset %q is no number", ErrInvalid, r.URL.Query().Get("offset")))
		return
	}
	control := http.NewResponseController(w)
	body := &idleReader{r: r.Body, extend: func() {
		_ = control.SetReadDeadline(time.Now().Add(idleLimit))
	}}
	if err := h.backend.WriteBlob(r.Context(), r.PathValue("digest"), offset, body); err != nil {
		// What is left of the body may be hundreds of megabytes: rather lose
		// the connection than read them.
		w.Header().Set("Connection", "close")
		h.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// idleReader moves a deadline ahead of every read.
type idleReader struct {
	r      io.Reader
	extend func()
}

func (i *idleReader) Read(p []byte) (int, error) {
	i.extend()
	return i.r.Read(p)
}

func (h *handler) proxy(w http.ResponseWriter, r *http.Request) {
	address, err := netip.ParseAddrPort(r.URL.Query().Get("address"))
	if err != nil {
		h.fail(w, fmt.Errorf("%w: address: %w", ErrInvalid, err))
		return
	}
	if r.Header.Get("Upgrade") != upgradeName {
		h.fail(w, fmt.Errorf("%w: the request has no Upgrade: %s", ErrInvalid, upgradeName))
		return
	}
	target, err := h.backend.DialTarget(r.Context(), address)
	if err != nil {
		h.fail(w, err)
		return
	}
	defer target.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.fail(w, fmt.Errorf("taking over the connection: %w", err))
		return
	}
	defer client.Close()
	h.proxies.Add(1)
	defer h.proxies.Done()
	_ = client.SetDeadline(time.Time{})
	_, err = fmt.Fprintf(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeName)
	if err != nil {
		return
	}
	// A hijacked connection is no longer closed by the HTTP server.
	stop := context.AfterFunc(r.Context(), func() {
		_ = client.Close()
		_ = target.Close()
	})
	defer stop()
	// What the server read ahead, then the connection itself: the server's
	// own reader would end the request's context at the client's half-close.
	ahead := io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered()))
	pipe(client, io.MultiReader(ahead, client), target)
}

// pipe copies both ways until both ends are done, passing on half-closes.
func pipe(client net.Conn, fromClient io.Reader, target net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(target, fromClient)
		closeWrite(target, err)
	}()
	_, err := io.Copy(client, target)
	closeWrite(client, err)
	<-done
}

// closeWrite half-closes after an orderly end and closes after an error, so
// that the other direction ends too.
func closeWrite(conn net.Conn, err error) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
		if half.CloseWrite() == nil {
			return
		}
	}
	_ = conn.Close()
}
