// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

const (
	// reportEvery is well below the protocol's limit of one second.
	reportEvery   = 700 * time.Millisecond
	reportTimeout = 10 * time.Second
)

// Reporter reports the installation's progress to the server and the console.
// It does so in a separate goroutine, so that a slow server or console never
// delays the installation and only misses intermediate states.
type Reporter struct {
	print func(line string)
	send  func(context.Context, installerapi.Progress) error

	written atomic.Int64
	mu      sync.Mutex
	now     installerapi.Progress
	waiting string
	wake    chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// NewReporter returns a reporter that prints lines with print, which must not
// block.
func NewReporter(print func(line string)) *Reporter {
	return &Reporter{print: print, wake: make(chan struct{}, 1)}
}

// Start starts sending periodic reports to the server, until Finish or Stop.
func (r *Reporter) Start(send func(context.Context, installerapi.Progress) error) {
	ctx, cancel := context.WithCancel(context.Background())
	r.send = send
	r.stop = cancel
	r.done = make(chan struct{})
	go r.loop(ctx)
}

func (r *Reporter) loop(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	printed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-tick.C:
		}
		p := r.Current()
		if line := p.String(); line != printed {
			r.print(line)
			printed = line
		}
		// A lost report needs no retry: the next one supersedes it.
		sendCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		err := r.send(sendCtx, p)
		cancel()
		if err == nil {
			r.accepted(p.Hardware)
		}
	}
}

// SetHardware adds the inventory to the reports until the server has accepted it once.
func (r *Reporter) SetHardware(h installerapi.Hardware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Hardware = &h
}

// accepted removes an inventory that the server has accepted from the next reports.
func (r *Reporter) accepted(h *installerapi.Hardware) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now.Hardware == h {
		r.now.Hardware = nil
	}
}

// SetWarnings sets the warnings of the last report.
func (r *Reporter) SetWarnings(warnings []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Warnings = warnings[:min(len(warnings), installerapi.MaxWarnings)]
}

// SetAttempt sets the plan's attempt, which every report echoes.
func (r *Reporter) SetAttempt(attempt string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Attempt = attempt
}

// SetTotal sets the number of bytes to write, of which none is written.
func (r *Reporter) SetTotal(total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.BytesTotal = total
	r.written.Store(0)
}

// AddWritten adds n to the number of bytes written to the disk, or erased.
func (r *Reporter) AddWritten(n int64) { r.written.Add(n) }

// Enter sets the current stage and reports it without waiting.
func (r *Reporter) Enter(stage installerapi.Stage, message string) {
	r.mu.Lock()
	r.now.Stage = stage
	r.now.Message = message
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

// Waiting sets the reason why the installation is waiting; "" clears it.
func (r *Reporter) Waiting(reason string) {
	r.mu.Lock()
	changed := r.waiting != reason
	r.waiting = reason
	r.mu.Unlock()
	if changed && reason != "" {
		r.print("pxelab: " + reason)
	}
}

// Current returns the report that would be sent now.
func (r *Reporter) Current() installerapi.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.now
	p.BytesWritten = r.written.Load()
	if r.waiting != "" {
		p.Message = r.waiting
		p.Waiting = r.waiting
	}
	return p
}

// Started reports whether Start has been called.
func (r *Reporter) Started() bool { return r.send != nil }

// Stop ends the periodic reports and waits for the last one. It is idempotent.
func (r *Reporter) Stop() {
	if r.stop != nil {
		r.stop()
		<-r.done
	}
}

// Finish ends the periodic reports and sends a final one. It retries until the
// server accepts the report or ctx ends.
func (r *Reporter) Finish(ctx context.Context, stage installerapi.Stage, message string) error {
	r.Stop()
	r.mu.Lock()
	r.now.Stage = stage
	r.now.Message = message
	r.waiting = ""
	r.mu.Unlock()
	p := r.Current()
	r.print(p.String())
	if r.send == nil {
		return nil
	}
	pause := minBackoff
	for {
		// The response to StageDone may take up to 10 s.
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
