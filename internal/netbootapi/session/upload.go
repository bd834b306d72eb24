// SPDX-License-Identifier: Apache-2.0

package session

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	// maxUploadPause limits the pause between failed uploads of a blob, which doubles
	// each time because every attempt may transfer the whole content.
	maxUploadPause = time.Minute
	// progressEvery limits how often the progress of an upload is published for the
	// server, machineProgressEvery for the machines, of which there may be many.
	progressEvery        = time.Second
	machineProgressEvery = 5 * time.Second
	// smallBlob is the size up to which a blob uses the lane of small ones.
	smallBlob = 1 << 20
)

// The lanes: a text does not wait until an image is uploaded.
const (
	laneSmall = iota
	laneLarge
	lanes
)

// lane makes one upload at a time.
type lane struct {
	queue   wantQueue
	current *want
	failed  *want // the last one that failed and is still wanted
}

// uploads makes the uploads of one lane until ctx ends.
func (l *link) uploads(ctx context.Context, on *lane) {
	for {
		w, from := l.server.nextUpload(ctx, on)
		if w == nil {
			return
		}
		sending, cancel := context.WithCancel(ctx)
		l.server.begin(w, cancel)
		err := l.sendBlob(sending, w, from)
		abandoned := sending.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		l.server.uploaded(l, w, err, abandoned)
	}
}

// nextUpload blocks until there is a blob to send. It returns nil when ctx ends.
func (s *server) nextUpload(ctx context.Context, on *lane) (*want, source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil {
		if !s.connected || len(on.queue) == 0 {
			s.wake.Wait()
			continue
		}
		w := heap.Pop(&on.queue).(*want)
		if from, ok := w.source(); ok {
			w.sending = true
			w.abandon = func() {}
			on.current = w
			return w, from
		}
	}
	return nil, source{}
}

// begin records how to end an upload, and reports that of a large blob.
func (s *server) begin(w *want, abandon context.CancelFunc) {
	var c changes
	s.mu.Lock()
	w.abandon = abandon
	if len(w.needers) == 0 {
		abandon()
	}
	if w.large {
		s.addNeeders(&c, w)
	}
	s.mu.Unlock()
	s.report(c)
}

func (s *server) addNeeders(c *changes, w *want) {
	c.server = true
	for i := range w.needers {
		c.add(i)
	}
}

func (l *link) sendBlob(ctx context.Context, w *want, from source) error {
	var content io.ReaderAt
	if from.text != nil {
		content = strings.NewReader(from.text.Value())
	} else {
		file, err := os.Open(from.path)
		if err != nil {
			return fmt.Errorf("opening %s: %w", w.blob.Digest, err)
		}
		defer file.Close()
		content = file
	}
	var published time.Time
	first := int64(-1) // bytes that netbootd had before this attempt
	return l.client.UploadBlob(ctx, w.blob, content, func(done int64) {
		if first < 0 {
			first = done
		}
		now := time.Now()
		if done == first || now.Sub(published) < progressEvery {
			return
		}
		published = now
		l.server.progressed(l, w, done, now)
	})
}

func (s *server) progressed(l *link, w *want, done int64, now time.Time) {
	var c changes
	s.mu.Lock()
	if s.link == l {
		w.done = done
		w.err = nil
		c.server = true
		if now.Sub(w.published) >= machineProgressEvery {
			w.published = now
			s.addNeeders(&c, w)
		}
	}
	s.mu.Unlock()
	s.report(c)
}

// uploaded records how an upload ended.
func (s *server) uploaded(l *link, w *want, err error, abandoned bool) {
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return
	}
	w.sending = false
	w.lane.current = nil
	var c changes
	s.addNeeders(&c, w)
	switch {
	case err == nil:
		s.arrived(w)
	case len(w.needers) == 0:
		s.forget(w)
	case abandoned: // and needed again since
		s.schedule(w)
	default:
		s.retryUpload(w, err)
	}
	s.mu.Unlock()
	s.report(c)
}

// arrived records that netbootd has a blob, without waiting for the next State.
func (s *server) arrived(w *want) {
	s.forget(w)
	for i := range w.needers {
		i.arrive(w.blob.Digest)
		s.check(i)
	}
}

func (s *server) retryUpload(w *want, err error) {
	w.pause = min(max(w.pause, retryEvery), maxUploadPause)
	s.log.Error(err, "Uploading content failed", "retryIn", w.pause)
	w.err = err
	w.failed = true
	w.lane.failed = w
	w.timer = s.after(w.pause, &w.timer, func() { s.schedule(w) })
	w.pause *= 2
}

// restartUploads queues all uploads again, those of a link that was replaced included.
func (s *server) restartUploads() {
	for n := range s.lanes {
		s.lanes[n].current = nil
	}
	for _, w := range s.wants {
		w.sending = false
		if len(w.needers) == 0 {
			s.forget(w)
			continue
		}
		w.resume()
		s.schedule(w)
	}
}
