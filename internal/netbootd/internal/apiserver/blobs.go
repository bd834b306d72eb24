// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func (h *handler) headBlob(w http.ResponseWriter, r *http.Request) {
	blob, err := blobOf(r)
	var offset int64
	complete := false
	if err == nil {
		offset, complete, err = h.backend.BlobOffset(blob)
	}
	if err != nil {
		// The response to a HEAD has no body, so the client learns the status only.
		h.fail(w, err)
		return
	}
	w.Header().Set(netbootapi.HeaderOffset, strconv.FormatInt(offset, 10))
	w.Header().Set(netbootapi.HeaderComplete, strconv.FormatBool(complete))
}

// blobOf returns the blob that a request names. The backend validates it.
func blobOf(r *http.Request) (netbootapi.Blob, error) {
	size, err := number(r, "size")
	return netbootapi.Blob{Digest: r.PathValue("digest"), Size: size}, err
}

// number returns a parameter of the query.
func number(r *http.Request, name string) (int64, error) {
	text := r.URL.Query().Get(name)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: %s %q is not a non-negative number", netbootapi.ErrInvalid, name, text)
	}
	return n, nil
}

func (h *handler) putBlob(w http.ResponseWriter, r *http.Request) {
	blob, err := blobOf(r)
	if err != nil {
		h.refuse(w, err)
		return
	}
	offset, err := number(r, "offset")
	if err != nil {
		h.refuse(w, err)
		return
	}
	control := http.NewResponseController(w)
	body := &idleReader{r: r.Body, extend: func() {
		_ = control.SetReadDeadline(time.Now().Add(netbootapi.IdleLimit))
	}}
	if err := h.backend.WriteBlob(r.Context(), blob, offset, body); err != nil {
		// The rest of the body may be hundreds of megabytes.
		h.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// idleReader extends the deadline before every read.
type idleReader struct {
	r      io.Reader
	extend func()
}

func (i *idleReader) Read(p []byte) (int, error) {
	i.extend()
	return i.r.Read(p)
}
