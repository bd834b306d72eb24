// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

const (
	// maxOutput is how many bytes of the end of QEMU's log an Exit contains.
	maxOutput = 4 << 10
	// Connecting is retried quickly at first, because QEMU creates its socket
	// shortly after its start, and then backs off.
	firstRetry = 10 * time.Millisecond
	lastRetry  = 2 * time.Second
	// saveDelay limits how often a guest can cause its record to be written, and
	// logCheck how much it can write to its serial log before the log is cut.
	saveDelay = time.Second
	logCheck  = time.Minute
)

// superviseNew records and supervises a process that was just started. It kills
// the process when the record cannot be written.
func (m *instance) superviseNew(r record) error {
	m.begin(r, view{phase: machine.PhaseStarting})
	if err := m.save(); err != nil {
		// Without a record the next Local could not find the process. Killing it is
		// safe: its guest is still paused.
		_ = process.Signal(r.Process, syscall.SIGKILL)
		_, _ = process.Wait(context.Background(), r.Process)
		m.update(func() {
			m.record.Exit = &machine.Exit{Reason: machine.ExitStopped, At: time.Now(), StartedAt: r.StartedAt, Code: -1}
		})
		return err
	}
	m.supervise(r)
	return nil
}

// superviseFound records and supervises a process that an earlier Local started.
// It never kills the process: when the record cannot be written, as on a full
// disk, the old record is still enough to find the process again.
func (m *instance) superviseFound(log logr.Logger, r record, v view) {
	m.begin(r, v)
	if err := m.save(); err != nil {
		log.Error(err, "Recording an adopted machine")
	}
	m.supervise(r)
}

// begin replaces the record by that of another process.
func (m *instance) begin(r record, v view) {
	m.update(func() {
		m.record, m.view = r, v
		m.starting, m.order, m.resume = nil, nil, false
		m.unknown = nil
		m.panics, m.diskErrors, m.panicSeen = 0, 0, false
		// No request may reach another process than the one that it was made for.
		m.interrupts()
		m.requests, m.interrupts = context.WithCancel(m.local.ctx)
	})
}

// supervise starts the goroutines that supervise the record's process until it
// ends or the Local is closed. It does not block.
func (m *instance) supervise(r record) {
	log := m.local.log.WithValues("machine", m.id, "name", r.Machine.Name, "pid", r.Process.PID)
	ctx, cancel := context.WithCancel(m.local.ctx)
	m.local.tasks.Go(func() {
		defer cancel()
		exit, err := process.Wait(m.local.ctx, r.Process)
		if m.local.ctx.Err() != nil && err != nil {
			return // The Local is closed and the machine keeps running.
		}
		if err != nil {
			log.Error(err, "Waiting for QEMU to end")
		}
		m.recordExit(log, exit)
	})
	m.local.tasks.Go(func() { m.keepConnected(ctx, log, r.Process) })
	m.local.tasks.Go(func() { m.maintainFiles(ctx, log) })
	m.local.tasks.Go(func() { newWatcher(m, log, r.Process).watch(ctx) })
}

// recordExit records how the process ended and publishes EventExited.
func (m *instance) recordExit(log logr.Logger, how process.Exit) {
	r, _ := m.snapshot()
	exit := machine.Exit{Reason: r.Ending, At: time.Now(), StartedAt: r.StartedAt, Code: -1, Requested: r.endRequested()}
	if how.Known {
		exit.Code = how.Code
	}
	if how.Signal != 0 {
		exit.Signal = how.Signal.String()
	}
	if exit.Reason == "" {
		exit.Reason = machine.ExitFailed
		exit.Output = process.Tail(r.Machine.Paths.Log, r.LogOffset, maxOutput)
	}
	p := r.Machine.Paths
	if err := removeFiles(p.QMP, p.Serial, p.VNC); err != nil {
		log.Error(err, "Removing the sockets of a machine that ended")
	}
	// The record is written with the lock held: a removal that observes the exit
	// must not be followed by another write of the record.
	m.update(func() {
		m.record.Exit, m.client, m.order = &exit, nil, nil
		if err := m.record.save(); err != nil {
			log.Error(err, "Recording the exit of a machine")
		}
	})
	log.Info("QEMU ended", "reason", exit.Reason, "code", exit.Code, "signal", exit.Signal, "output", exit.Output)
	m.local.publish(m.id, machine.EventExited, string(exit.Reason))
}

// keepConnected maintains the QMP connection, with backoff, and handles its
// events. It blocks until ctx ends.
func (m *instance) keepConnected(ctx context.Context, log logr.Logger, p process.Identity) {
	retry := firstRetry
	for ctx.Err() == nil {
		client, err := m.connect(ctx, p)
		if err != nil {
			log.V(1).Info("QEMU does not answer", "error", err.Error())
			select {
			case <-time.After(retry):
			case <-ctx.Done():
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
		m.listen(ctx, log, client)
		m.update(func() {
			if m.client == client {
				m.client = nil
			}
		})
		client.Close()
	}
}

// connect connects to QMP and fails unless process p serves the socket.
func (m *instance) connect(ctx context.Context, p process.Identity) (*qmp.Client, error) {
	dialing, cancel := context.WithTimeout(ctx, qmp.DefaultTimeout)
	defer cancel()
	r, _ := m.snapshot()
	client, peer, err := dialMachine(dialing, r.Machine.Paths.QMP, m.id)
	if err != nil {
		return nil, err
	}
	if peer != p {
		client.Close()
		return nil, fmt.Errorf("QMP socket %s belongs to process %d", r.Machine.Paths.QMP, peer.PID)
	}
	return client, nil
}

// listen handles events until the connection or ctx ends.
func (m *instance) listen(ctx context.Context, log logr.Logger, client *qmp.Client) {
	if err := m.restrictSockets(); err != nil {
		log.Error(err, "Restricting access to a machine's sockets")
	}
	// Events from before the connection are lost, so watch queries the run state.
	m.update(func() { m.client = client })
	m.poke()
	dropped := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-client.Events():
			if !ok {
				return
			}
			m.handle(log, e)
			if d := client.Dropped(); d != dropped {
				dropped = d
				m.poke()
			}
		}
	}
}

// handle handles one QEMU event (qapi/run-state.json, qapi/block-core.json).
func (m *instance) handle(log logr.Logger, e qmp.Event) {
	var data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Action string `json:"action"`
		Device string `json:"device"`
		Node   string `json:"node-name"`
	}
	_ = json.Unmarshal(e.Data, &data) // An error loses only the details.
	switch e.Name {
	case "RESET":
		m.update(func() {
			m.record.Resets, m.record.GuestPanicked = m.record.Resets+1, false
			m.panicSeen = false
			m.record.SerialOffset = hostfs.FileSize(m.record.Machine.Paths.SerialLog)
		})
		m.saveSoon()
		m.local.publish(m.id, machine.EventReset, data.Reason)
	case "SHUTDOWN":
		if !data.Guest {
			m.local.publish(m.id, machine.EventShutdown, data.Reason)
		}
	case "GUEST_PANICKED":
		m.panicked(log, data.Action)
		return
	case "BLOCK_IO_ERROR":
		m.diskFailed(log, data.Device, data.Node, data.Reason)
	case "SUSPEND", "WAKEUP", "WATCHDOG", "MEMORY_FAILURE":
		m.local.publish(m.id, machine.EventChanged, e.Name)
	}
	// Most events change the run state.
	m.poke()
}

// guestShutDown records that the guest powered off, and then asks QEMU to exit.
func (m *instance) guestShutDown(ctx context.Context, log logr.Logger, client *qmp.Client) {
	known := false
	m.update(func() {
		known = m.record.Ending == machine.ExitGuestShutdown
		m.record.Ending = machine.ExitGuestShutdown
	})
	if !known {
		if err := m.save(); err != nil {
			log.Error(err, "Recording that the guest powered off")
		}
		m.local.publish(m.id, machine.EventShutdown, "guest-shutdown")
	}
	if err := client.Commands(ctx).Quit(); err != nil {
		log.V(1).Info("QEMU exited before it replied to quit", "error", err.Error())
	}
}

func (m *instance) saveSoon() {
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// maintainFiles writes the record after changes and cuts large logs. It blocks
// until ctx ends.
func (m *instance) maintainFiles(ctx context.Context, log logr.Logger) {
	tick := time.NewTicker(logCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r, _ := m.snapshot()
			for _, path := range []string{r.Machine.Paths.SerialLog, r.Machine.Paths.Log} {
				if err := cutLog(path, maxLog); err != nil {
					log.Error(err, "Cutting a log", "path", path)
				}
			}
		case <-m.dirty:
			select {
			case <-time.After(saveDelay):
			case <-ctx.Done():
			}
			if err := m.save(); err != nil {
				log.Error(err, "Writing the record of a machine")
			}
		}
	}
}
