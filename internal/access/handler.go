// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// dialTimeout bounds dialling a machine's SSH port. It is shorter than the 60 s after
	// which an API server abandons a request, so that the error names what did not answer.
	dialTimeout = 55 * time.Second
	// namespaceStreams is how many streams the users of a namespace may have open.
	namespaceStreams = 128
)

// Authenticator identifies the user of a request.
type Authenticator interface {
	User(r *http.Request) (User, error)
}

// Authorizer decides whether a user may do something. reason is human-readable and may be
// empty.
type Authorizer interface {
	Authorize(ctx context.Context, u User, a Attributes) (allowed bool, reason string, err error)
}

// HandlerOptions configures a [Handler]. All fields except Log are required.
type HandlerOptions struct {
	Backend       Backend
	Authenticator Authenticator
	Authorizer    Authorizer
	// Log receives failures of the manager, and who opened which stream. The zero Logger
	// discards.
	Log logr.Logger
}

// Handler serves the access API. Create it with [NewHandler].
type Handler struct {
	o        HandlerOptions
	log      logr.Logger
	consoles *consoles

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards what follows
	closed bool
	work   sync.WaitGroup // streams and logs
	// open counts the streams and logs of each namespace.
	open map[string]int
}

// NewHandler returns a handler for a backend's machines. The caller must call Close.
func NewHandler(o HandlerOptions) *Handler {
	h := &Handler{o: o, log: discardUnset(o.Log), open: map[string]int{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.consoles = newConsoles(h.ctx)
	return h
}

func discardUnset(log logr.Logger) logr.Logger {
	if log.GetSink() == nil {
		return logr.Discard()
	}
	return log
}

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

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, err := h.o.Authenticator.User(r)
	if err != nil {
		h.log.Info("Rejected a request that is not the API server's", "remote", r.RemoteAddr, "error", err.Error())
		writeError(w, apierrors.NewUnauthorized("only the cluster's API server may connect"))
		return
	}
	to, ok := parseRoute(r.URL.Path)
	if !ok {
		writeError(w, statusError(http.StatusNotFound, "the access API has no such path"))
		return
	}
	if !isRead(r) {
		writeError(w, statusError(http.StatusMethodNotAllowed, "use GET; streams are WebSockets"))
		return
	}
	if to.discovery != nil {
		writeJSON(w, http.StatusOK, to.discovery())
		return
	}
	if err := h.authorize(r.Context(), user, to.attributes()); err != nil {
		writeError(w, err)
		return
	}
	if to.capacity {
		h.serveCapacity(w, r)
		return
	}
	h.serveMachine(w, r, user, to)
}

// authorize returns nil if the user may do it. The API server has asked itself the same,
// but with the verb "get" also for what sends input to a machine.
func (h *Handler) authorize(ctx context.Context, u User, a Attributes) error {
	allowed, reason, err := h.o.Authorizer.Authorize(ctx, u, a)
	if err != nil {
		h.log.Error(err, "Failed to authorize a request", "user", u.Name, "action", a.String())
		return statusError(http.StatusInternalServerError, "the cluster did not answer whether this is allowed: "+err.Error())
	}
	if allowed {
		return nil
	}
	text := fmt.Sprintf("user %q cannot %s", u.Name, a)
	if reason != "" {
		text += ": " + reason
	}
	return statusError(http.StatusForbidden, text)
}

func (h *Handler) serveCapacity(w http.ResponseWriter, r *http.Request) {
	capacity, err := h.o.Backend.Capacity(r.Context())
	if err != nil {
		writeError(w, backendError(err))
		return
	}
	writeJSON(w, http.StatusOK, capacity)
}

// serveMachine serves an endpoint of a machine: it tracks the request for Close and
// converts errors to responses.
func (h *Handler) serveMachine(w http.ResponseWriter, r *http.Request, user User, to route) {
	m := to.machine
	if err := h.enter(m.Namespace); err != nil {
		writeError(w, err)
		return
	}
	defer h.leave(m.Namespace)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	r = r.WithContext(ctx)

	h.log.Info("Serving a user", "user", user.Name, "machine", m.String(), "endpoint", to.endpoint)
	var err error
	switch to.endpoint {
	case endpointSSH:
		err = h.serveSSH(w, r, m)
	case endpointConsole:
		err = h.serveConsole(w, r, m)
	case endpointLog:
		err = h.serveLog(w, r, m)
	}
	if err == nil {
		return
	}
	answer := backendError(err)
	if answer.Status().Code == http.StatusInternalServerError {
		h.log.Error(err, "Failed to serve a machine", "machine", m.String(), "endpoint", to.endpoint)
	}
	writeError(w, answer)
}

// enter counts a request, unless there are too many or the manager is stopping.
func (h *Handler) enter(namespace string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return statusError(http.StatusServiceUnavailable, "the manager is stopping")
	case h.open[namespace] >= namespaceStreams:
		return statusError(http.StatusTooManyRequests,
			fmt.Sprintf("%d streams are open in namespace %s; close some", namespaceStreams, namespace))
	}
	h.open[namespace]++
	h.work.Add(1)
	return nil
}

func (h *Handler) leave(namespace string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open[namespace]--; h.open[namespace] == 0 {
		delete(h.open, namespace)
	}
	h.work.Done()
}

func (h *Handler) serveSSH(w http.ResponseWriter, r *http.Request, m Ref) error {
	if !wantsStream(r) {
		return errNoUpgrade
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	upstream, err := h.o.Backend.DialSSH(ctx, m)
	cancel()
	if err != nil {
		return fmt.Errorf("connecting to the SSH port of %s: %w", m, err)
	}
	defer upstream.Close()
	joined, leave := context.WithCancel(h.ctx)
	defer leave()
	client, err := acceptStream(w, r, leave)
	if err != nil {
		h.log.V(1).Info("Failed to open a stream", "error", err.Error())
		return nil // answered
	}
	defer client.Close()
	join(joined, client, upstream)
	return nil
}

func (h *Handler) serveConsole(w http.ResponseWriter, r *http.Request, m Ref) error {
	if !wantsStream(r) {
		return errNoUpgrade
	}
	socket, err := h.o.Backend.SerialSocket(r.Context(), m)
	if err != nil {
		return fmt.Errorf("finding the serial console of %s: %w", m, err)
	}
	viewer, err := h.consoles.attach(r.Context(), socket)
	if err != nil {
		return fmt.Errorf("attaching to the serial console of %s: %w", m, err)
	}
	defer viewer.detach()
	client, err := acceptStream(w, r, func() {})
	if err != nil {
		h.log.V(1).Info("Failed to open a stream", "error", err.Error())
		return nil // answered
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
			writeError(w, statusError(http.StatusBadRequest, "follow must be true or false"))
			return nil
		}
	}
	path, err := h.o.Backend.SerialLog(r.Context(), m)
	if err != nil {
		return fmt.Errorf("finding the serial log of %s: %w", m, err)
	}
	return copyLog(r.Context(), w, path, follow)
}

func writeError(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = statusError(http.StatusInternalServerError, err.Error())
	}
	s := status.Status()
	if s.Code == http.StatusUpgradeRequired {
		w.Header().Set("Upgrade", "websocket")
	}
	writeJSON(w, int(s.Code), s)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
