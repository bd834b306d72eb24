// SPDX-License-Identifier: Apache-2.0

package l2switch

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// captureDepth is the number of frames buffered for a slow writer.
const captureDepth = 1024

// capture passes copies of frames to one Capture call.
type capture struct {
	frames chan record
	ended  chan struct{}
	once   sync.Once
}

type record struct {
	at    time.Time
	frame []byte
}

func (c *capture) stop() { c.once.Do(func() { close(c.ended) }) }

// add never blocks: it drops the frame if the writer is too slow.
func (c *capture) add(frame []byte, at time.Time) {
	if len(c.frames) == cap(c.frames) {
		return
	}
	select {
	case c.frames <- record{at, append([]byte(nil), frame...)}:
	default:
	}
}

// Capture writes every frame that enters the switch to w as pcap (nanosecond
// timestamps, Ethernet), including those that a policy drops. It blocks until ctx
// ends or the switch is closed, and then returns nil, or until a write fails. If w
// is too slow, the capture misses frames; traffic is never delayed. Captures are
// independent: any number may run at a time, also while ports come and go. No
// command or API offers captures yet.
func (s *Switch) Capture(ctx context.Context, w io.Writer) error {
	c := &capture{frames: make(chan record, captureDepth), ended: make(chan struct{})}
	if !s.attach(c) {
		return fmt.Errorf("capturing: %w", ErrClosed)
	}
	defer s.detach(c)

	out := bufio.NewWriter(w)
	if _, err := out.Write(pcapHeader(s.maxFrame)); err != nil {
		return fmt.Errorf("writing the capture header: %w", err)
	}
	write := func(r record) error {
		head := pcapRecord(r)
		if _, err := out.Write(head[:]); err != nil {
			return fmt.Errorf("writing a capture: %w", err)
		}
		if _, err := out.Write(r.frame); err != nil {
			return fmt.Errorf("writing a capture: %w", err)
		}
		return nil
	}
	finish := func() error {
		for range len(c.frames) {
			if err := write(<-c.frames); err != nil {
				return err
			}
		}
		return out.Flush()
	}
	for {
		// Flushed whenever no frame waits, so that a reader sees frames promptly.
		if len(c.frames) == 0 {
			if err := out.Flush(); err != nil {
				return fmt.Errorf("writing a capture: %w", err)
			}
		}
		select {
		case r := <-c.frames:
			if err := write(r); err != nil {
				return err
			}
		case <-ctx.Done():
			return finish()
		case <-c.ended:
			return finish()
		}
	}
}

func (s *Switch) attach(c *capture) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	list := append(append([]*capture{}, *s.captures.Load()...), c)
	s.captures.Store(&list)
	return true
}

func (s *Switch) detach(c *capture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := []*capture{}
	for _, other := range *s.captures.Load() {
		if other != c {
			rest = append(rest, other)
		}
	}
	s.captures.Store(&rest)
}

func pcapHeader(snapLen int) []byte {
	const (
		magicNanoseconds = 0xa1b23c4d
		linkEthernet     = 1
	)
	h := binary.LittleEndian.AppendUint32(nil, magicNanoseconds)
	h = binary.LittleEndian.AppendUint16(h, 2)
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone and accuracy
	h = binary.LittleEndian.AppendUint32(h, uint32(snapLen))
	return binary.LittleEndian.AppendUint32(h, linkEthernet)
}

func pcapRecord(r record) (h [16]byte) {
	binary.LittleEndian.PutUint32(h[0:], uint32(r.at.Unix()))
	binary.LittleEndian.PutUint32(h[4:], uint32(r.at.Nanosecond()))
	binary.LittleEndian.PutUint32(h[8:], uint32(len(r.frame)))
	binary.LittleEndian.PutUint32(h[12:], uint32(len(r.frame)))
	return h
}
