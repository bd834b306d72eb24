// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// dialTimeout bounds dialling a machine's SSH port. It is longer than the limits of the
// connections that this consists of, including the wait for a manager that has just
// started, so that their errors tell what did not answer.
const dialTimeout = 90 * time.Second

// Handler serves the API. Create it with [NewHandler].
type Handler struct {
	backend  Backend
	log      logr.Logger
	mux      *http.ServeMux
	consoles *consoles

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed against work
	closed bool
	work   sync.WaitGroup // upgraded connections and followed logs
}

// NewHandler returns a handler for backend's machines. The caller must call Close.
func NewHandler(backend Backend, log logr.Logger) *Handler {
	h := &Handler{backend: backend, log: log, mux: http.NewServeMux()}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.consoles = newConsoles(h.ctx)
	h.mux.HandleFunc("POST /v1/namespaces/{namespace}/{kind}/{name}/ssh", h.machine(h.serveSSH))
	h.mux.HandleFunc("POST /v1/namespaces/{namespace}/{kind}/{name}/console", h.machine(h.serveConsole))
	h.mux.HandleFunc("GET /v1/namespaces/{namespace}/{kind}/{name}/log", h.machine(h.serveLog))
	h.mux.HandleFunc("GET /v1/capacity", h.serveCapacity)
	h.mux.HandleFunc("GET /v1/unobserved", h.serveUnobserved)
	return h
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Close ends all streams and waits for them. An http.Server does not track upgraded
// connections, so closing the server does not replace closing the Handler.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.work.Wait()
	h.consoles.wait()
}

// machine wraps an endpoint: it parses the machine's name, tracks the request for
// Close, and converts errors to responses.
func (h *Handler) machine(serve func(http.ResponseWriter, *http.Request, Ref) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		m := Ref{Namespace: r.PathValue("namespace"), Kind: Kind(r.PathValue("kind")), Name: r.PathValue("name")}
		if m.Kind != Target && m.Kind != Server {
			http.Error(w, fmt.Sprintf("unknown kind of machine %q: use targets or servers", m.Kind), http.StatusNotFound)
			return
		}
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			http.Error(w, "the manager is stopping", http.StatusServiceUnavailable)
			return
		}
		h.work.Add(1)
		h.mu.Unlock()
		defer h.work.Done()

		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(h.ctx, cancel)()

		if err := serve(w, r.WithContext(ctx), m); err != nil {
			status := statusOf(err)
			if status == http.StatusInternalServerError {
				h.log.Error(err, "Failed to serve a machine's stream", "machine", m.String(), "path", r.URL.Path)
			}
			http.Error(w, err.Error(), status)
		}
	}
}

// errNoUpgrade means that a request for a stream is not an upgrade.
var errNoUpgrade = errors.New(`this endpoint is a stream: send "Connection: Upgrade" and "Upgrade: tcp"`)

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	case errors.Is(err, errNoUpgrade):
		return http.StatusUpgradeRequired
	default:
		return http.StatusInternalServerError
	}
}

func (h *Handler) serveSSH(w http.ResponseWriter, r *http.Request, m Ref) error {
	if !wantsUpgrade(r) {
		return errNoUpgrade
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	upstream, err := h.backend.DialSSH(ctx, m)
	cancel()
	if err != nil {
		return fmt.Errorf("connecting to the SSH port of %s: %w", m, err)
	}
	defer upstream.Close()
	client, err := upgrade(w)
	if err != nil {
		return err
	}
	defer client.Close()
	join(h.ctx, client, upstream)
	return nil
}

func (h *Handler) serveConsole(w http.ResponseWriter, r *http.Request, m Ref) error {
	if !wantsUpgrade(r) {
		return errNoUpgrade
	}
	socket, err := h.backend.SerialSocket(r.Context(), m)
	if err != nil {
		return fmt.Errorf("finding the serial console of %s: %w", m, err)
	}
	viewer, err := h.consoles.attach(r.Context(), socket)
	if err != nil {
		return fmt.Errorf("attaching to the serial console of %s: %w", m, err)
	}
	defer viewer.detach()
	client, err := upgrade(w)
	if err != nil {
		return err
	}
	defer client.Close()
	viewer.serve(h.ctx, client)
	return nil
}

func (h *Handler) serveLog(w http.ResponseWriter, r *http.Request, m Ref) error {
	follow := false
	if text := r.URL.Query().Get("follow"); text != "" {
		var err error
		if follow, err = strconv.ParseBool(text); err != nil {
			http.Error(w, "follow must be true or false", http.StatusBadRequest)
			return nil
		}
	}
	path, err := h.backend.SerialLog(r.Context(), m)
	if err != nil {
		return fmt.Errorf("finding the serial log of %s: %w", m, err)
	}
	return copyLog(r.Context(), w, path, follow)
}

func (h *Handler) serveUnobserved(w http.ResponseWriter, r *http.Request) {
	objects, err := h.backend.Unobserved(r.Context())
	if err != nil {
		h.log.Error(err, "Failed to list unobserved objects")
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if objects == nil {
		objects = []Object{} // not null
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(objects) // the client has gone
}

func wantsUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "tcp") &&
		strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// upgrade hijacks the connection and sends the 101 response. After that, errors
// cannot be returned to the client.
func upgrade(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("hijacking the connection: %w", err)
	}
	// The HTTP server may have set deadlines.
	err = conn.SetDeadline(time.Time{})
	if err == nil {
		_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("switching protocols: %w", err)
	}
	return &bufferedConn{Conn: conn, r: buffered.Reader}, nil
}

// bufferedConn first returns the data that an HTTP parser has read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite closes the sending half of the connection.
func (c *bufferedConn) CloseWrite() error { return closeWrite(c.Conn) }
