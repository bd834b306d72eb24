// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qmp"
)

// start makes the machine run. The order makes every point at which this program
// may die a good one: the record says what is about to happen before it does,
// QEMU starts with its guest paused, and the guest goes on when the record knows
// the process.
func (m *machine) start(ctx context.Context, described Machine) error {
	if !m.alive() {
		if err := m.awaitBurial(ctx); err != nil {
			return err
		}
		if err := m.launch(ctx, described); err != nil {
			return err
		}
	}
	return m.resume(ctx)
}

// awaitBurial lets the supervisor of a process that has just ended finish.
func (m *machine) awaitBurial(ctx context.Context) error {
	return m.await(ctx, func() bool { return !m.record.running() })
}

// launch starts a process, or finds one that this machine has already.
func (m *machine) launch(ctx context.Context, described Machine) error {
	resolved, prog, err := m.local.resolve(ctx, described)
	if err != nil {
		return err
	}
	args, err := Args(resolved)
	if err != nil {
		return err
	}
	r := record{
		Machine: resolved, Digest: described.Digest(), Program: prog.path, Args: args,
		StartedAt: time.Now(), BootOrder: described.BootOrder(),
	}
	orphan, err := findProcess(ctx, resolved.Paths.QMP, m.id)
	if err != nil {
		return err
	}
	if orphan != (process.Identity{}) {
		// It was started by a program that died before it could write so. Its
		// command line is unknown, hence no digest: the caller sees a difference.
		r.Process, r.Digest, r.BootOrder = orphan, "", nil
		m.superviseFound(m.local.log.WithValues("machine", m.id), r)
		return nil
	}
	if err := prepareFiles(resolved); err != nil {
		return err
	}
	r.LogOffset, r.SerialOffset = sizeOf(resolved.Paths.Log), sizeOf(resolved.Paths.SerialLog)
	if err := r.save(); err != nil {
		return err
	}
	r.Process, err = process.Start(process.Command{
		Path: prog.path, Args: args, Env: environment(), Dir: resolved.Paths.Dir, Log: resolved.Paths.Log,
	})
	if err != nil {
		return err
	}
	m.local.log.Info("Started QEMU", "machine", m.id, "name", resolved.Name, "pid", r.Process.PID)
	return m.superviseNew(r)
}

// resume waits for QEMU and lets the guest run.
func (m *machine) resume(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := m.connected(waiting)
	if errors.Is(err, ErrNotRunning) {
		r, _ := m.snapshot()
		return fmt.Errorf("it ended at once: %s", failure(r))
	}
	if err != nil {
		return err
	}
	runState, err := queryStatus(waiting, client)
	if err != nil {
		return err
	}
	switch runState {
	case "prelaunch", "paused", runStateIOError:
		if err := client.Execute(waiting, "cont", nil, nil); err != nil {
			return err
		}
		if runState == "prelaunch" {
			m.local.publish(m.id, EventStarted, "")
		}
	}
	return nil
}

// failure is what is known of why a process ended.
func failure(r record) string {
	if r.Exit == nil {
		return "for an unknown reason"
	}
	if r.Exit.Output != "" {
		return r.Exit.Output
	}
	return fmt.Sprintf("%s, exit status %d %s; see %s", r.Exit.Reason, r.Exit.Code, r.Exit.Signal, r.Machine.Paths.Log)
}

// prepareFiles makes what QEMU would make too open, and removes sockets that an
// earlier process left.
func prepareFiles(m Machine) error {
	if err := privateDir(m.Paths.Sockets); err != nil {
		return err
	}
	for _, path := range append([]string{m.Paths.QMP, m.Paths.Serial, m.Paths.VNC}, m.dgramSockets()...) {
		if err := removeSocket(path); err != nil {
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

// removeSocket removes a socket and refuses to remove anything else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is in the way and is no socket", path)
	}
	return os.Remove(path)
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// findProcess is the process that serves this machine's QMP socket, or the zero
// Identity. A socket without a process behind it refuses connections.
func findProcess(ctx context.Context, path, id string) (process.Identity, error) {
	client, identity, err := dialMachine(ctx, path, id)
	switch {
	case err == nil:
		return identity, client.Close()
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return process.Identity{}, nil
	default:
		return process.Identity{}, fmt.Errorf("something unexpected has the machine's QMP socket: %w", err)
	}
}

// dialMachine connects to the machine and tells its process as the kernel and
// QEMU see it.
func dialMachine(ctx context.Context, path, id string) (*qmp.Client, process.Identity, error) {
	client, err := qmp.Dial(ctx, path)
	if err != nil {
		return nil, process.Identity{}, err
	}
	identity, err := identify(ctx, client, id)
	if err != nil {
		client.Close()
		return nil, process.Identity{}, fmt.Errorf("QMP socket %s: %w", path, err)
	}
	return client, identity, nil
}

func identify(ctx context.Context, client *qmp.Client, id string) (process.Identity, error) {
	var reply struct {
		UUID string `json:"UUID"`
	}
	if err := client.Execute(ctx, "query-uuid", nil, &reply); err != nil {
		return process.Identity{}, err
	}
	if reply.UUID != id {
		return process.Identity{}, fmt.Errorf("it is of machine %q, not %s", reply.UUID, id)
	}
	pid, err := client.PeerPID()
	if err != nil {
		return process.Identity{}, err
	}
	return process.Find(pid)
}

// adopt takes up a machine that an earlier Local has left.
func (m *machine) adopt(ctx context.Context) {
	r, _ := m.snapshot()
	log := m.local.log.WithValues("machine", m.id, "name", r.Machine.Name)
	if r.Exit != nil {
		return
	}
	if r.Process == (process.Identity{}) {
		// The program died between writing the record and knowing the process.
		asking, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		p, err := findProcess(asking, r.Machine.Paths.QMP, m.id)
		if err != nil {
			log.Error(err, "A machine that was being started cannot be found")
		}
		r.Process = p
	}
	if process.Alive(r.Process) {
		log.Info("Adopting QEMU", "pid", r.Process.PID)
		m.superviseFound(log, r)
		return
	}
	exit := Exit{Reason: ExitUnknown, At: time.Now(), Code: -1}
	switch {
	case r.Ending != "":
		exit.Reason = r.Ending
	case r.Process.PID != 0 && !process.SameBoot(r.Process):
		exit.Reason = ExitHostReboot
	default:
		exit.Output = process.Tail(r.Machine.Paths.Log, r.LogOffset, maxOutput)
	}
	m.update(func() { m.record.Exit = &exit })
	if err := m.save(); err != nil {
		log.Error(err, "Noting the end of a machine")
	}
}
