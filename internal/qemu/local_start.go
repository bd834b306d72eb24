// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
)

// starting is a start that was accepted. Its description and time are those of the
// process that it will start.
type starting struct {
	described machine.Machine
	digest    string
	at        time.Time
	// exists is set when an earlier Local may have started the process.
	exists bool
}

// state is what is known of a machine whose process is about to be started.
func (s *starting) state(paths machine.Paths) machine.State {
	return machine.State{
		ID: s.described.ID, Name: s.described.Name, Phase: machine.PhaseStarting, StartedAt: s.at, Digest: s.digest,
		Accelerator: s.described.Accelerator, BootOrder: s.described.BootOrder(), Paths: paths,
		HostMemory: machine.Footprint(s.described.MemoryMiB, s.described.Accelerator),
	}
}

// requestStart starts QEMU in the background unless it runs, and resumes a paused
// guest. The order tolerates a crash of this process at any point: the record is
// written before QEMU starts, QEMU starts with its guest paused, and watch, or that
// of the next Local, resumes the guest after the record contains the process.
func (m *instance) requestStart(described machine.Machine) error {
	digest := described.Digest()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.removed:
		return errors.New("the machine is being removed; try again")
	case m.unknown != nil:
		return m.identified()
	case m.starting != nil:
		return nil
	case m.record.running():
		m.resume = true
		m.poke()
		return nil
	}
	s, requests := &starting{described: described, digest: digest, at: time.Now()}, m.requests
	if err := m.local.run(func() { m.start(requests, s) }); err != nil {
		return err
	}
	m.starting = s
	return nil
}

// start carries out a start.
func (m *instance) start(ctx context.Context, s *starting) {
	err := m.exclusively(ctx, func() error {
		if r, _ := m.snapshot(); r.running() {
			return nil // an earlier start was revoked too late
		}
		return m.launch(ctx, s)
	})
	log := m.local.log.WithValues("machine", m.id, "name", s.described.Name)
	exit := machine.Exit{Reason: machine.ExitNotStarted, At: time.Now(), StartedAt: s.at, Code: -1}
	failed := false
	m.update(func() {
		if m.starting != s {
			return // its process is supervised, or it was revoked
		}
		m.starting = nil
		if err == nil || ctx.Err() != nil {
			return
		}
		failed, exit.Output = true, err.Error()
		m.record = record{Machine: s.described, Digest: s.digest, StartedAt: s.at, BootOrder: s.described.BootOrder(), Exit: &exit}
		m.record.Machine.Paths = m.local.paths(m.id)
	})
	if !failed {
		if err != nil {
			log.V(1).Info("A start was interrupted", "error", err.Error())
			m.local.publish(m.id, machine.EventChanged, "start interrupted")
		}
		return
	}
	log.Info("Starting QEMU failed", "error", err.Error())
	if err := m.save(); err != nil {
		log.V(1).Info("Recording a failed start", "error", err.Error())
	}
	m.local.publish(m.id, machine.EventExited, string(exit.Reason))
}

// launch starts QEMU, or adopts a process that already runs this machine.
func (m *instance) launch(ctx context.Context, s *starting) error {
	resolved, prog, err := m.local.resolve(ctx, s.described)
	if err != nil {
		return err
	}
	args, err := Args(resolved)
	if err != nil {
		return err
	}
	r := record{
		Machine: resolved, Digest: s.digest, Program: prog.path, Args: args,
		StartedAt: s.at, BootOrder: s.described.BootOrder(),
	}
	log, orphan, err := m.claim(ctx, r)
	if err != nil {
		return err
	}
	if orphan != (process.Identity{}) {
		// The process that started it died before it recorded the PID. The command
		// line is unknown, so the digest is left empty and differs from the caller's.
		found, err := inspect(ctx, resolved.Paths.QMP, m.id)
		if err != nil {
			return err
		}
		r.Process, r.Digest, r.BootOrder = orphan, "", nil
		r.Machine.NICs = withForwards(resolved.NICs, found) // resolve has chosen other ports
		m.superviseFound(m.local.log.WithValues("machine", m.id), r, view{phase: machine.PhaseStarting})
		return nil
	}
	defer log.Close() // QEMU keeps the lock
	if err := prepareFiles(resolved); err != nil {
		return err
	}
	r.LogOffset, r.SerialOffset = hostfs.FileSize(resolved.Paths.Log), hostfs.FileSize(resolved.Paths.SerialLog)
	confine, err := m.local.confine(resolved, prog)
	if err != nil {
		return err
	}
	if err := r.save(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.Process, err = process.Start(process.Command{
		Path: prog.path, Args: args, Env: environment(), Dir: resolved.Paths.Dir, Log: resolved.Paths.Log,
		Inherit: []*os.File{log}, Confine: confine,
	})
	if err != nil {
		return err
	}
	m.local.log.Info("Started QEMU", "machine", m.id, "name", resolved.Name, "pid", r.Process.PID)
	return m.superviseNew(r)
}

// prepareFiles creates the files that QEMU would create with too open a mode, and
// removes the sockets of an earlier process. It refuses a socket that a process
// serves.
func prepareFiles(m machine.Machine) error {
	if err := hostfs.PrivateDir(m.Paths.Sockets); err != nil {
		return err
	}
	for _, path := range []string{m.Paths.QMP, m.Paths.Serial, m.Paths.VNC} {
		if err := hostfs.RemoveStaleSocket("unix", path); err != nil {
			return err
		}
	}
	for _, path := range m.DgramSockets() {
		if err := hostfs.RemoveStaleSocket("unixgram", path); err != nil {
			return err
		}
	}
	for _, log := range []string{m.Paths.Log, m.Paths.SerialLog} {
		if err := cutLog(log, maxLog); err != nil {
			return err
		}
		if err := touch(log); err != nil {
			return err
		}
	}
	return nil
}

// adopt supervises a machine that an earlier Local recorded, or records that its
// process has ended. It does not block, except for a machine whose process was not
// recorded.
func (m *instance) adopt() {
	r, _ := m.snapshot()
	if r.Exit != nil {
		return
	}
	if r.Process == (process.Identity{}) {
		m.adoptUnrecorded(r)
		return
	}
	m.adoptProcess(r)
}

// adoptUnrecorded adopts a machine whose Local died between writing the record and
// recording the PID. It waits until the process, if there is one, answers.
func (m *instance) adoptUnrecorded(r record) {
	m.update(func() {
		m.starting = &starting{described: r.Machine, digest: r.Digest, at: r.StartedAt, exists: true}
	})
	// A stop waits for this instead of interrupting it: it could not find the process.
	err := m.exclusively(m.local.ctx, func() error {
		log, orphan, err := m.claim(m.local.ctx, r)
		if log != nil {
			log.Close()
		}
		if m.local.ctx.Err() == nil {
			r.Process = orphan
			m.adoptProcess(r)
		}
		return err
	})
	if err != nil {
		m.local.log.Error(err, "Finding the process of a machine that was being started", "machine", m.id)
	}
}

// adoptProcess supervises the process in the record, or records its end.
func (m *instance) adoptProcess(r record) {
	log := m.local.log.WithValues("machine", m.id, "name", r.Machine.Name)
	if process.Alive(r.Process) {
		log.Info("Adopting QEMU", "pid", r.Process.PID)
		m.superviseFound(log, r, view{})
		return
	}
	exit := machine.Exit{Reason: machine.ExitUnknown, At: time.Now(), StartedAt: r.StartedAt, Code: -1, Requested: r.endRequested()}
	switch {
	case r.Ending != "":
		exit.Reason = r.Ending
	case r.Process.PID != 0 && !process.SameBoot(r.Process):
		exit.Reason = machine.ExitHostReboot
	default:
		exit.Output = process.Tail(r.Machine.Paths.Log, r.LogOffset, maxOutput)
	}
	m.update(func() { m.record.Exit, m.starting = &exit, nil })
	if err := m.save(); err != nil {
		log.Error(err, "Recording the exit of a machine")
	}
	m.local.publish(m.id, machine.EventExited, string(exit.Reason))
}
