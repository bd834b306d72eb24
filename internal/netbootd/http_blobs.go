// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// blob serves one of the machine's files and records when it was sent
// completely.
func (h *labHandler) blob(r *labRequest, file string, blob netbootapi.Blob) {
	before := func(span) {}
	if file == fileImage {
		before = func(part span) { h.sendingImage(r, part) }
	}
	sent, err := h.serveBlob(r.w, r.r, blob, before)
	if err != nil {
		h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", fmt.Errorf("%s: %w", file, err))
		return
	}
	h.record(r, file, sent.describe(blob.Size))
	if r.r.Method != http.MethodGet || sent.end <= sent.start {
		return
	}
	if h.state.sent(r.machine, file, sent.start, sent.end) < blob.Size {
		return
	}
	initrdThere := h.state.sent(r.machine, "initrd", 0, 0) >= r.machine.Initrd.Size
	overlayThere := h.state.sent(r.machine, "overlay", 0, 0) >= r.machine.Overlay.Size
	_ = h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		now := h.state.now().UTC()
		if file == "kernel" {
			first(&s.KernelAt, now)
		}
		if initrdThere && overlayThere {
			first(&s.InitrdAt, now)
		}
		return nil
	})
}

// sendingImage records that a part of the image is about to be sent: a machine that lost
// its connection may resume on another before the first has noticed. When that completes
// the image it saves it: a machine that has the image must be able to report that it is
// installed, also to the netbootd that follows one that was killed.
func (h *labHandler) sendingImage(r *labRequest, part span) {
	if h.state.sent(r.machine, fileImage, part.start, part.end) < r.machine.Image.Size {
		return
	}
	_ = h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		first(&s.ImageAt, h.state.now().UTC())
		return nil
	})
	h.persist(r.machine.UID)
}

// serveBlob sends the blob or a range of it, with sendfile where the system has
// it, and returns the span that was sent. It calls before ahead of each piece.
func (h *labHandler) serveBlob(w http.ResponseWriter, r *http.Request, blob netbootapi.Blob, before func(span)) (span, error) {
	f, err := h.blobs.open(blob.Digest)
	if err != nil {
		return span{}, err
	}
	defer f.Close()
	limit := time.Minute + time.Duration(blob.Size/slowest)*time.Second
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
	w.Header().Set("ETag", `"`+blob.Digest+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	counted := &countingWriter{ResponseWriter: w, between: lossWatch(r), before: before}
	http.ServeContent(counted, r, "", time.Time{}, f)
	return counted.span(), nil
}

// connKey is the context key of a request's connection.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// lossWatch returns a function that checks the request's connection for loss
// until its congestion control is final.
func lossWatch(r *http.Request) func() {
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	settled := !ok
	return func() {
		if !settled {
			settled = adaptToLoss(conn)
		}
	}
}
