// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

// disconnected handles the end of a connection.
func (r *Runner) disconnected(l *link) {
	if r.ctx.Err() != nil {
		return
	}
	gone := r.awaitEnd(l.hello.Process, closeTimeout)
	r.mu.Lock()
	lost := slices.SortedFunc(maps.Values(r.sent), func(a, b *call) int {
		return int(int64(a.request.Sequence) - int64(b.request.Sequence))
	})
	clear(r.sent)
	c := r.child
	r.mu.Unlock()
	if c != nil && c.process != l.hello.Process {
		c = nil
	}
	err := errDisconnected
	if gone {
		r.settle(c)
		err = errEnded
		if c != nil {
			err = fmt.Errorf("%w: %s", errEnded, describe(c.exit))
		}
		r.log.Info("The simulator has ended", "pid", l.hello.Process.PID)
	} else {
		r.setResponsive(false)
	}
	for _, c := range lost {
		c.ended(err)
	}
}

func describe(exit process.Exit) string {
	switch {
	case !exit.Known:
		return "the cause is not known"
	case exit.Signal != 0:
		return "it was ended by the signal " + exit.Signal.String()
	default:
		return fmt.Sprintf("it exited with status %d", exit.Code)
	}
}

// settle records the end of the machines whose program has ended, and of the starts that
// it was asked for. c is that program, if this Runner has started it.
func (r *Runner) settle(c *child) {
	r.mu.Lock()
	r.interruptRevoked()
	r.mu.Unlock()
	dead := r.dead()
	if len(dead) == 0 {
		return
	}
	e := ending{reason: machine.ExitFailed}
	select {
	case <-r.settled:
	default: // it has ended while no Runner was connected
		e.reason = machine.ExitUnknown
		r.mu.Lock()
		program := dead[0].record.Process
		r.mu.Unlock()
		if !process.SameBoot(program) {
			e.reason = machine.ExitHostReboot
		}
	}
	offset := int64(0)
	if c != nil {
		offset, e.how = c.logOffset, c.exit
	}
	if e.reason != machine.ExitHostReboot {
		e.output = r.output(offset)
	}
	r.end(dead, e)
}

// dead returns the machines that are recorded as running and whose program has ended.
func (r *Runner) dead() []*entry {
	alive := map[process.Identity]bool{}
	r.mu.Lock()
	for _, e := range r.machines {
		if e.record.Alive() {
			alive[e.record.Process] = true
		}
	}
	r.mu.Unlock()
	for p := range alive {
		alive[p] = process.Alive(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alive(func(e *entry) bool {
		alive, checked := alive[e.record.Process]
		return checked && !alive
	})
}

// ending is why machines have ended whose program did not record it.
type ending struct {
	reason machine.ExitReason
	output string
	how    process.Exit // of the program
}

// end records the end of machines that no program runs: what the program has recorded,
// or the given ending.
func (r *Runner) end(entries []*entry, ending ending) {
	for _, e := range entries {
		r.mu.Lock()
		record := e.record.Clone()
		r.mu.Unlock()
		last, err := control.Load(record.Machine.Paths.Record, e.id)
		if err == nil && last.Exit != nil && last.StartedAt.Equal(record.StartedAt) {
			record = last
		} else {
			record.Exit = record.End(ending.reason)
			record.Exit.Output = ending.output
			if ending.how.Known {
				record.Exit.Code = ending.how.Code
			}
			if ending.how.Signal != 0 {
				record.Exit.Signal = ending.how.Signal.String()
			}
			// Before the machine is reported as stopped, because it may then be
			// removed.
			r.save(record)
		}
		r.mu.Lock()
		e.record, e.order = record, nil
		e.notify()
		r.mu.Unlock()
		r.log.Info("A simulated machine has ended with its simulator", "machine", e.id, "name", record.Machine.Name, "reason", record.Exit.Reason)
		r.publish(e.id, machine.EventExited, string(record.Exit.Reason))
	}
}

// failStarts ends the starts that no program could be asked for, and the other requests
// that were not sent.
func (r *Runner) failStarts(err error) {
	r.mu.Lock()
	calls := r.outbox
	r.outbox = nil
	r.mu.Unlock()
	for _, c := range calls {
		c.ended(err)
	}
}
