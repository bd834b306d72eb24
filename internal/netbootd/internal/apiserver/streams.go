// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// maxPosition bounds the text of a position, in bytes. A longer one is unknown.
const maxPosition = 256

// after returns the position that a stream continues from; the zero Position, which no
// store has, for one that cannot be parsed.
func after(r *http.Request) netbootapi.Position {
	text := r.URL.Query().Get("after")
	if len(text) > maxPosition {
		return netbootapi.Position{}
	}
	position, err := netbootapi.ParsePosition(text)
	if err != nil {
		return netbootapi.Position{}
	}
	return position
}

// unhurriedWriter gives the client IdleLimit to accept each write: a client that
// stopped reading must not hold the stream for ever.
type unhurriedWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (u unhurriedWriter) Write(p []byte) (int, error) {
	_ = u.control.SetWriteDeadline(time.Now().Add(netbootapi.IdleLimit))
	return u.w.Write(p)
}

func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	position := after(r)
	stream(w, r, func(out io.Writer) (<-chan struct{}, error) {
		update, changed := h.backend.Changes(position)
		tooLarge, err := netbootapi.WriteUpdate(out, update)
		if len(tooLarge) > 0 {
			h.log.Info("the state of machines is too large and is not reported", "machines", tooLarge)
		}
		position = update.Position
		return changed, err
	})
}

func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	position := after(r)
	stream(w, r, func(out io.Writer) (<-chan struct{}, error) {
		for first := true; ; first = false {
			batch, changed := h.backend.Events(position)
			if len(batch.Events) == 0 {
				record := netbootapi.EventRecord{}
				if batch.Store != position.Store {
					// A reader of another run, or of none, learns which one this is.
					record.Store = batch.Store
					position = netbootapi.Position{Store: batch.Store}
				}
				if first || record.Store != "" {
					return changed, writeEvent(out, record)
				}
				return changed, nil
			}
			for i := range batch.Events {
				record := netbootapi.EventRecord{Event: &batch.Events[i], Store: batch.Store}
				if i == 0 {
					record.Lost = batch.Lost
				}
				if err := writeEvent(out, record); err != nil {
					return nil, err
				}
			}
			position = netbootapi.Position{Store: batch.Store, Sequence: batch.Events[len(batch.Events)-1].Sequence}
		}
	})
}

func writeEvent(out io.Writer, record netbootapi.EventRecord) error {
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

// writeBuffer is how many bytes of a stream are collected before they are sent: a TLS
// record.
const writeBuffer = 16 << 10

// stream calls write, which returns a channel that is closed at the next change, at
// every change and heartbeat until the client disconnects or write fails.
func stream(w http.ResponseWriter, r *http.Request, write func(io.Writer) (<-chan struct{}, error)) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(unhurriedWriter{w, control}, writeBuffer)
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		start := time.Now()
		changed, err := write(out)
		if err != nil || out.Flush() != nil || control.Flush() != nil {
			return
		}
		// The pause after each write coalesces changes, yet the first change
		// after a quiet time is sent at once.
		length := pauseAfter(time.Since(start))
		pause := time.NewTimer(length)
		select {
		case <-pause.C:
		case <-r.Context().Done():
			pause.Stop()
			return
		}
		beat.Reset(heartbeat - length)
		select {
		case <-changed:
		case <-beat.C:
		case <-r.Context().Done():
			return
		}
	}
}
