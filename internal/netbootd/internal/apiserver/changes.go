// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

const (
	// bodyLimit is how long the body of a request, other than an upload, may take.
	bodyLimit = time.Minute
	// maxCredentials bounds what putCredentials reads, in bytes.
	maxCredentials = 64 << 10
)

// admit asks the backend whether it admits the manager that sent a request. A request
// without an epoch has the epoch 0.
func (h *handler) admit(r *http.Request) error {
	var epoch int64
	if text := r.Header.Get(netbootapi.HeaderEpoch); text != "" {
		var err error
		if epoch, err = strconv.ParseInt(text, 10, 64); err != nil || epoch < 0 {
			return fmt.Errorf("%w: epoch %q is not a non-negative number", netbootapi.ErrInvalid, text)
		}
	}
	return h.backend.Admit(epoch)
}

// fenced passes on a request for a change if the backend admits its manager.
func (h *handler) fenced(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h.admit(r); err != nil {
			h.refuse(w, err)
			return
		}
		serve(w, r)
	}
}

// refuse is fail for a request of which the body was not read: it may be large, so the
// connection is closed.
func (h *handler) refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	h.fail(w, err)
}

// body reads the whole body, so that nothing is done for a request that is cut off.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyLimit))
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	return raw, nil
}

// change makes a change and answers the request for it. Another manager may have taken
// over while the request was read.
func (h *handler) change(w http.ResponseWriter, r *http.Request, do func() error) {
	err := h.admit(r)
	if err == nil {
		err = do()
	}
	if err != nil {
		h.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) putServer(w http.ResponseWriter, r *http.Request) {
	raw, err := body(w, r, netbootapi.MaxConfigBytes)
	if err != nil {
		h.fail(w, err)
		return
	}
	var c netbootapi.ServerConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		h.fail(w, fmt.Errorf("%w: decoding the configuration: %w", netbootapi.ErrInvalid, err))
		return
	}
	h.change(w, r, func() error { return h.backend.PutServer(r.Context(), raw, &c) })
}

func (h *handler) putMachine(w http.ResponseWriter, r *http.Request) {
	uid, err := uidOf(r)
	if err != nil {
		h.refuse(w, err)
		return
	}
	raw, err := body(w, r, netbootapi.MaxEntryBytes)
	if err != nil {
		h.fail(w, err)
		return
	}
	entry, err := netbootapi.DecodeEntry(raw)
	if err != nil {
		h.fail(w, err)
		return
	}
	h.change(w, r, func() error { return h.backend.PutMachine(r.Context(), uid, entry) })
}

func (h *handler) deleteMachine(w http.ResponseWriter, r *http.Request) {
	uid, err := uidOf(r)
	if err != nil {
		h.fail(w, err)
		return
	}
	h.change(w, r, func() error { return h.backend.DeleteMachine(r.Context(), uid) })
}

// uidOf returns the UID in the path, which becomes a file name.
func uidOf(r *http.Request) (string, error) {
	uid := r.PathValue("uid")
	if !netbootapi.ValidUID(uid) {
		return "", fmt.Errorf("%w: the UID is not 1 to 128 letters, digits, dots, underscores or dashes", netbootapi.ErrInvalid)
	}
	return uid, nil
}

func (h *handler) putCredentials(w http.ResponseWriter, r *http.Request) {
	raw, err := body(w, r, maxCredentials)
	if err != nil {
		h.fail(w, err)
		return
	}
	var c netbootapi.ServerCredentials
	if err := json.Unmarshal(raw, &c); err != nil {
		h.fail(w, fmt.Errorf("%w: decoding the credentials: %w", netbootapi.ErrInvalid, err))
		return
	}
	if err := c.Check(); err != nil {
		h.fail(w, err)
		return
	}
	h.change(w, r, func() error { return h.backend.Renew(r.Context(), c) })
}
