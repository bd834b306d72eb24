// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/install"
)

const (
	// reportEvery keeps reports well within the second that the protocol asks.
	reportEvery   = 700 * time.Millisecond
	reportTimeout = 10 * time.Second
)

// Reporter tells server and console how far the installation is, from a
// goroutine of its own: neither a slow server nor a slow console holds the
// installation up, they only miss intermediate states.
type Reporter struct {
	print func(line string)
	send  func(context.Context, install.Progress) error

	written atomic.Int64
	mu      sync.Mutex
	now     install.Progress
	waiting string
	wake    chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// NewReporter returns a reporter that prints lines by print, which must not
// block.
func NewReporter(print func(line string)) *Reporter {
	return &Reporter{print: print, wake: make(chan struct{}, 1)}
}

// Start begins to send to the server too; Finish or Stop end that.
func (r *Reporter) Start(send func(context.Context, install.Progress) error) {
	ctx, cancel := context.WithCancel(context.Background())
	r.send, r.stop, r.done = send, cancel, make(chan struct{})
	go r.loop(ctx)
}

func (r *Reporter) loop(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var printed install.Progress
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-tick.C:
		}
		p := r.Current()
		if p != printed {
			r.print(p.String())
			printed = p
		}
		// A server that does not hear this report hears the next.
		sendCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		_ = r.send(sendCtx, p)
		cancel()
	}
}

// SetAttempt sets what is echoed from the plan.
func (r *Reporter) SetAttempt(attempt string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Attempt = attempt
}

// SetTotal sets how many bytes are to be written.
func (r *Reporter) SetTotal(total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.BytesTotal = total
}

// AddWritten counts bytes that are on the disk.
func (r *Reporter) AddWritten(n int64) { r.written.Add(n) }

// Enter begins a stage.
func (r *Reporter) Enter(stage install.Stage, message string) {
	r.mu.Lock()
	r.now.Stage, r.now.Message = stage, message
	started := r.Started()
	r.mu.Unlock()
	if !started {
		r.print(r.Current().String())
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Waiting says what holds the installation up; "" that nothing does any more.
func (r *Reporter) Waiting(reason string) {
	r.mu.Lock()
	changed := r.waiting != reason
	r.waiting = reason
	r.mu.Unlock()
	if changed && reason != "" {
		r.print("pxelab: " + reason)
	}
}

// Current is the report that would be sent now.
func (r *Reporter) Current() install.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.now
	p.BytesWritten = r.written.Load()
	if r.waiting != "" {
		p.Message = r.waiting
	}
	return p
}

// Started says whether reports go to a server.
func (r *Reporter) Started() bool { return r.send != nil }

// Stop ends the sending and waits for it. It is idempotent.
func (r *Reporter) Stop() {
	if r.stop != nil {
		r.stop()
		<-r.done
	}
}

// Finish ends the periodic reports and sends the last one, again and again
// until the server took it or ctx ends. Nothing is sent after it.
func (r *Reporter) Finish(ctx context.Context, stage install.Stage, message string) error {
	r.Stop()
	r.mu.Lock()
	r.now.Stage, r.now.Message, r.waiting = stage, message, ""
	r.mu.Unlock()
	p := r.Current()
	r.print(p.String())
	if r.send == nil {
		return nil
	}
	pause := minBackoff
	for {
		// The answer to StageDone takes its time by the protocol.
		sendCtx, cancel := context.WithTimeout(ctx, stallTimeout)
		err := r.send(sendCtx, p)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.print("pxelab: reporting " + string(stage) + ": " + err.Error())
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackoff)
	}
}
