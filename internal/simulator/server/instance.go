// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
	"github.com/pxelab/pxelab/internal/simulator/internal/guest"
)

// maxOutput is how many bytes of a failure's description an exit contains.
const maxOutput = 4 << 10

// instance is a machine from the request to start it to its end.
type instance struct {
	server *server
	id     string
	log    logr.Logger
	// published is the record that clients have last been sent; guarded by server.mu.
	published control.Record
	// ended is closed when the machine has ended.
	ended chan struct{}

	// operations are carried out one after the other, by work while working is set.
	operationsMu sync.Mutex
	operations   []func()
	working      bool

	// The connections of the machine are set by begin, before the guest runs.
	ports  []*port
	serial *serial

	mu     sync.Mutex
	record control.Record
	guest  Guest
	cancel context.CancelFunc
	// ending is set by a request to stop.
	ending machine.ExitReason
	// failure describes a bug that ends the machine.
	failure string
	// launched is set when the guest runs, whose end is then that of the machine.
	launched bool
}

func newInstance(s *server, r control.Record) *instance {
	r.Process, r.Executes, r.Exit, r.Resets, r.PowerDownRequestedAt = s.self, false, nil, 0, time.Time{}
	return &instance{
		server: s, id: r.Machine.ID, log: s.log.WithValues("machine", r.Machine.ID, "name", r.Machine.Name),
		ended: make(chan struct{}), record: r.Clone(),
	}
}

// enqueue carries out an operation after those that were enqueued before it.
func (m *instance) enqueue(operation func()) {
	m.operationsMu.Lock()
	defer m.operationsMu.Unlock()
	m.operations = append(m.operations, operation)
	if !m.working {
		m.working = true
		m.server.guests.Go(m.work)
	}
}

func (m *instance) work() {
	for {
		m.operationsMu.Lock()
		if len(m.operations) == 0 {
			m.operations, m.working = nil, false
			m.operationsMu.Unlock()
			return
		}
		operation := m.operations[0]
		m.operations = m.operations[1:]
		m.operationsMu.Unlock()
		m.safely(operation)
	}
}

// safely carries out an operation. A bug in it ends the machine.
func (m *instance) safely(operation func()) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		m.fail(cause)
		m.mu.Lock()
		launched, failure := m.launched, m.failure
		m.mu.Unlock()
		if !launched {
			m.finish(machine.ExitFailed, failure)
		}
	}()
	operation()
}

// carryOut carries out a request to a machine that was started.
func (m *instance) carryOut(r control.Request) (control.Code, string) {
	m.mu.Lock()
	g, cancel := m.guest, m.cancel
	waits := !m.record.Executes && (r.Operation == control.Reset || r.Operation == control.PowerDown)
	if g == nil || m.record.Exit != nil || waits {
		m.mu.Unlock()
		return control.NotRunning, ""
	}
	switch r.Operation {
	case control.Stop:
		m.ending = machine.ExitStopped
		m.mu.Unlock()
		cancel()
		<-m.ended
		return control.OK, ""
	case control.Reset:
		m.mu.Unlock()
		m.reset("reset button") // first, so that the guest's output follows it
		g.Reset()
		return control.OK, ""
	case control.PowerDown:
		m.record.PowerDownRequestedAt = time.Now()
		m.server.publish(m, machine.EventChanged, "power button")
		m.mu.Unlock()
		g.PowerButton()
		m.save()
		return control.OK, ""
	}
	defer m.mu.Unlock()
	if err := m.record.Machine.CheckBootOrder(r.Devices); err != nil {
		return control.Failed, err.Error()
	}
	m.record.BootOrder = slices.Clone(r.Devices)
	m.server.publish(m, machine.EventChanged, "boot order")
	if err := m.record.Save(); err != nil {
		m.log.Error(err, "Recording the boot order")
	}
	return control.OK, ""
}

// begin starts the guest, once there is a place for another machine that boots. A failure
// is recorded as the machine's exit.
func (m *instance) begin() {
	config, err := m.prepare()
	if err != nil {
		m.log.Info("Starting a machine failed", "error", err.Error())
		m.finish(machine.ExitNotStarted, err.Error())
		return
	}
	var leave func()
	config.OnUp = func() { leave() }
	g := m.server.options.NewGuest(config)
	ctx, cancel := context.WithCancel(m.server.ctx)
	m.mu.Lock()
	m.guest, m.cancel, m.launched = g, cancel, true
	m.mu.Unlock()
	m.server.guests.Go(func() {
		defer cancel()
		end := guest.Stopped
		if leave = m.server.places.enter(ctx); leave != nil {
			defer leave()
			end = m.run(ctx, g)
		}
		m.finish(m.reasonOf(end))
	})
}

// execute connects the guest, which runs now.
func (m *instance) execute(g Guest) {
	m.mu.Lock()
	m.record.Executes = true
	m.server.publish(m, machine.EventStarted, "")
	m.mu.Unlock()
	for _, p := range m.ports {
		p.start(func(frame []byte) { m.receive(g, p.id, frame) })
	}
	m.log.Info("Started")
}

// reasonOf returns why the machine has ended whose guest ended.
func (m *instance) reasonOf(end guest.End) (reason machine.ExitReason, output string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.failure != "":
		return machine.ExitFailed, m.failure
	case m.ending != "":
		return m.ending, ""
	case end == guest.PowerOff:
		return machine.ExitGuestShutdown, ""
	default:
		return machine.ExitFailed, "the simulator was terminated"
	}
}

// run runs the guest. A bug in a guest ends its machine alone.
func (m *instance) run(ctx context.Context, g Guest) guest.End {
	defer m.recover()
	m.execute(g)
	return g.Run(ctx)
}

// receive delivers a frame, which may have been sent to provoke a bug.
func (m *instance) receive(g Guest, nic string, frame []byte) {
	defer m.recover()
	g.Receive(nic, frame)
}

// recover ends the guest after a panic. It must be deferred.
func (m *instance) recover() {
	if cause := recover(); cause != nil {
		m.fail(cause)
	}
}

// fail ends the machine because of a bug in it, which its exit and its serial log
// describe. The caller is the goroutine that has panicked.
func (m *instance) fail(cause any) {
	text := fmt.Sprintf("the simulated guest failed: %v\n%s", cause, debug.Stack())
	m.mu.Lock()
	first, cancel := m.failure == "", m.cancel
	if first {
		m.failure = text[:min(len(text), maxOutput)]
	}
	m.mu.Unlock()
	if first && m.serial != nil {
		_, _ = fmt.Fprintf(m.serial, "\r\npxelab: the simulator has a bug, which ends this machine: %v\r\n", cause)
	}
	if cancel != nil {
		cancel()
	}
}

// finish records the end of the machine. Its files belong to the Runner from then on.
func (m *instance) finish(reason machine.ExitReason, output string) {
	for _, p := range m.ports {
		p.close()
	}
	if m.serial != nil {
		m.serial.close()
	}
	m.mu.Lock()
	if reason == machine.ExitGuestShutdown {
		m.server.publish(m, machine.EventShutdown, "guest-shutdown")
	}
	exit := m.record.End(reason)
	exit.Output = output
	m.record.Exit = exit
	if err := m.record.Save(); err != nil {
		m.log.Error(err, "Recording the exit of a machine")
	}
	m.server.publish(m, machine.EventExited, string(reason))
	m.mu.Unlock()
	m.log.Info("Ended", "reason", reason, "output", output)
	close(m.ended)
}

// save writes the record unless the machine has ended.
func (m *instance) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Exit != nil {
		return
	}
	if err := m.record.Save(); err != nil {
		m.log.Error(err, "Writing the record of a machine")
	}
}

// reset records a reset.
func (m *instance) reset(detail string) {
	m.mu.Lock()
	if m.record.Exit == nil {
		m.record.Resets++
		m.record.SerialOffset = m.serial.offset()
		m.server.publish(m, machine.EventReset, detail)
	}
	m.mu.Unlock()
	m.server.saveSoon(m)
}

func (m *instance) bootOrder() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.record.BootOrder)
}
