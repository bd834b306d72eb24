// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qmp"
)

const (
	// maxOutput is how much of QEMU's last words goes into an Exit.
	maxOutput = 4 << 10
	// Reconnecting starts quickly, because QEMU makes its socket a moment after
	// its start, and then takes it easy.
	firstRetry = 10 * time.Millisecond
	lastRetry  = 2 * time.Second
	// saveDelay bounds how often a guest can make its record be written, and
	// logCheck how much it can write to its serial log before that is cut.
	saveDelay = time.Second
	logCheck  = time.Minute
)

// superviseNew is supervise for a process that was started a moment ago.
func (m *machine) superviseNew(r record) error {
	m.update(func() { m.record = r })
	if err := m.save(); err != nil {
		// Without a record nobody would find the process again. It has done
		// nothing yet: its guest is paused.
		_ = process.Signal(r.Process, syscall.SIGKILL)
		_, _ = process.Wait(context.Background(), r.Process)
		m.update(func() { m.record.Exit = &Exit{Reason: ExitStopped, At: time.Now(), Code: -1} })
		return err
	}
	m.supervise(r)
	return nil
}

// superviseFound is supervise for a process that an earlier program started. It
// is never harmed: when the record cannot be written, as on a full disk, what is
// on record is still enough to find the process once more.
func (m *machine) superviseFound(log logr.Logger, r record) {
	m.update(func() { m.record = r })
	if err := m.save(); err != nil {
		log.Error(err, "Noting an adopted machine")
	}
	m.supervise(r)
}

// supervise looks after the process of the machine's record until it ends or the
// Local is closed.
func (m *machine) supervise(r record) {
	log := m.local.log.WithValues("machine", m.id, "name", r.Machine.Name, "pid", r.Process.PID)
	ctx, cancel := context.WithCancel(m.local.ctx)
	m.local.tasks.Go(func() {
		defer cancel()
		exit, err := process.Wait(m.local.ctx, r.Process)
		if m.local.ctx.Err() != nil && err != nil {
			return // The Local is closed and the machine goes on.
		}
		if err != nil {
			log.Error(err, "Waiting for QEMU to end")
		}
		m.bury(log, exit)
	})
	m.local.tasks.Go(func() { m.converse(ctx, log, r.Process) })
	m.local.tasks.Go(func() { m.keepHouse(ctx, log) })
	m.local.tasks.Go(func() { m.tendStall(ctx, log) })
}

// bury notes how the process ended.
func (m *machine) bury(log logr.Logger, how process.Exit) {
	r, _ := m.snapshot()
	exit := Exit{Reason: r.Ending, At: time.Now(), Code: -1}
	if how.Known {
		exit.Code = how.Code
	}
	if how.Signal != 0 {
		exit.Signal = how.Signal.String()
	}
	if exit.Reason == "" {
		exit.Reason = ExitFailed
		exit.Output = process.Tail(r.Machine.Paths.Log, r.LogOffset, maxOutput)
	}
	p := r.Machine.Paths
	if err := removeFiles(p.QMP, p.Serial, p.VNC); err != nil {
		log.Error(err, "Removing the sockets of a machine that ended")
	}
	// Written before anybody can see it: a removal that follows must find nothing
	// coming after it.
	m.update(func() {
		m.record.Exit, m.client = &exit, nil
		if err := m.record.save(); err != nil {
			log.Error(err, "Noting the end of a machine")
		}
	})
	log.Info("QEMU ended", "reason", exit.Reason, "code", exit.Code, "signal", exit.Signal, "output", exit.Output)
	m.local.publish(m.id, EventExited, string(exit.Reason))
}

// converse keeps one QMP connection and acts on its events.
func (m *machine) converse(ctx context.Context, log logr.Logger, p process.Identity) {
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

// connect is a connection to this very process.
func (m *machine) connect(ctx context.Context, p process.Identity) (*qmp.Client, error) {
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

// listen acts on events until the connection or ctx ends.
func (m *machine) listen(ctx context.Context, log logr.Logger, client *qmp.Client) {
	// What happened before the connection is seen by asking.
	if runState, err := queryStatus(ctx, client); err != nil {
		log.V(1).Info("QEMU does not answer", "error", err.Error())
		return
	} else if runState == "shutdown" {
		m.guestShutDown(ctx, log, client, "guest-shutdown")
	} else if runState == "guest-panicked" {
		m.update(func() { m.record.GuestPanicked = true })
	}
	if err := m.closeSockets(); err != nil {
		log.Error(err, "Closing the sockets of a machine to others")
	}
	m.update(func() { m.client = client })
	m.maybeStopped()
	m.local.publish(m.id, EventChanged, "connected")
	dropped := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-client.Events():
			if !ok {
				return
			}
			m.handle(ctx, log, client, e)
			if d := client.Dropped(); d != dropped {
				dropped = d
				m.local.publish(m.id, EventChanged, "events were lost")
			}
		}
	}
}

// handle acts on one event of QEMU (qapi/run-state.json, qapi/block-core.json).
func (m *machine) handle(ctx context.Context, log logr.Logger, client *qmp.Client, e qmp.Event) {
	var data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Action string `json:"action"`
		Device string `json:"device"`
		Node   string `json:"node-name"`
	}
	_ = json.Unmarshal(e.Data, &data) // Only the details are lost with it.
	switch e.Name {
	case "RESET":
		m.update(func() {
			m.record.Resets, m.record.GuestPanicked = m.record.Resets+1, false
			m.record.SerialOffset = sizeOf(m.record.Machine.Paths.SerialLog)
		})
		m.saveSoon()
		m.local.publish(m.id, EventReset, data.Reason)
	case "SHUTDOWN":
		if data.Guest {
			m.guestShutDown(ctx, log, client, data.Reason)
			return
		}
		m.local.publish(m.id, EventShutdown, data.Reason)
	case "GUEST_PANICKED":
		log.Info("The guest panicked")
		m.update(func() { m.record.GuestPanicked = true })
		m.saveSoon()
		m.local.publish(m.id, EventGuestPanicked, data.Action)
	case "BLOCK_IO_ERROR":
		log.Info("A disk of the machine failed", "device", data.Device, "node", data.Node, "reason", data.Reason)
		m.local.publish(m.id, EventChanged, "disk error: "+data.Reason)
	case "STOP":
		m.maybeStopped()
		m.local.publish(m.id, EventChanged, e.Name)
	case "RESUME", "SUSPEND", "WAKEUP", "WATCHDOG", "MEMORY_FAILURE":
		m.local.publish(m.id, EventChanged, e.Name)
	}
}

// guestShutDown notes that the guest powered off, before the process that tells
// so is let go.
func (m *machine) guestShutDown(ctx context.Context, log logr.Logger, client *qmp.Client, reason string) {
	m.update(func() { m.record.Ending = ExitGuestShutdown })
	if err := m.save(); err != nil {
		log.Error(err, "Noting that the guest powered off")
	}
	m.local.publish(m.id, EventShutdown, reason)
	if err := client.Execute(ctx, "quit", nil, nil); err != nil {
		log.V(1).Info("QEMU ended before it said so", "error", err.Error())
	}
}

func (m *machine) saveSoon() {
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// keepHouse writes the record when it has changed, and cuts logs.
func (m *machine) keepHouse(ctx context.Context, log logr.Logger) {
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
