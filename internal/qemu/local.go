// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/internal/firmware"
)

// Options configure a Local.
type Options struct {
	// DataDir is the lab's data directory; it contains the machines' files. The
	// caller owns it exclusively, by ownership.AcquireDirectory, until the Local is
	// closed: two Locals on one directory would start machines twice.
	DataDir string
	// RuntimeDir contains the sockets. Its path must be short; see
	// [hostfs.MaxSocketPath].
	RuntimeDir string
	// FirmwareDirs are searched for firmware descriptors; nil means QEMU's
	// standard directories.
	FirmwareDirs []string
	// Accelerator is used without a trial when it is set.
	Accelerator machine.Accelerator
	// Readable are files and directories that QEMU may read besides those of its machine
	// and of the system.
	Readable []string
	Log      logr.Logger
}

// Local is the [machine.Runner] whose machines are QEMU processes of this host.
//
// It keeps one QMP connection to each machine. No other QMP client may connect,
// because QEMU serves one client at a time. What it reports of a machine is a copy
// that QEMU's events and a poll keep current, so that a QEMU that hangs delays no
// caller. Machines keep running when the Local is closed or its process is killed,
// and the next Local on the same data directory adopts them.
type Local struct {
	options Options
	feed    machine.Feed
	log     logr.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	machines map[string]*instance
	closed   bool

	programs     lookup[program]
	accelerators lookup[Choice]
}

var _ machine.Runner = (*Local)(nil)

// New returns a Local that adopts the machines of the data directory. It waits a few
// seconds until they have answered. It does not check that the caller owns the
// directory (see [Options]). The caller closes the Local.
func New(o Options) (*Local, error) {
	for what, dir := range map[string]string{"data": o.DataDir, "runtime": o.RuntimeDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("the %s directory %q is not an absolute path", what, dir)
		}
	}
	if err := machine.CheckSocketPath("QMP socket", machine.NewPaths(o.DataDir, o.RuntimeDir, uuid.Nil.String()).Serial); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(o.DataDir, "machines"), o.RuntimeDir} {
		if err := hostfs.PrivateDir(dir); err != nil {
			return nil, fmt.Errorf("preparing for virtual machines: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Local{
		options: o, log: o.Log, ctx: ctx, cancel: cancel,
		machines: map[string]*instance{},
	}
	if err := l.adoptAll(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close releases all machines, which keep running, and returns when the Local's
// goroutines have ended. Idempotent.
func (l *Local) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.tasks.Wait()
}

// run runs a task in the background, unless the Local is closed. Close waits for it.
func (l *Local) run(task func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	l.tasks.Go(task)
	return nil
}

var errClosed = errors.New("the runner of virtual machines is closed")

// adoptAll adopts the machines that an earlier Local has recorded, all at the same
// time, and waits until those that run have answered, at most queryTimeout.
func (l *Local) adoptAll() error {
	answering, cancel := context.WithTimeout(l.ctx, queryTimeout)
	defer cancel()
	var found []*instance
	defer func() {
		for _, m := range found {
			// One that has not answered is in PhaseUnresponsive.
			_ = m.await(answering, m.settled)
		}
	}()
	add := func(m *instance, task func()) {
		l.machines[m.id] = m
		found = append(found, m)
		l.tasks.Go(task)
	}
	dirs, err := os.ReadDir(filepath.Join(l.options.DataDir, "machines"))
	if err != nil {
		return fmt.Errorf("listing the machines: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() || machine.CheckID(d.Name()) != nil {
			continue
		}
		m := newInstance(l, d.Name())
		r, err := m.load()
		if err == nil && r.Machine.ID == "" {
			if err = checkLock(l.paths(m.id).Log); err == nil {
				continue // it has no process that can be found
			}
		}
		if err != nil {
			l.log.Error(err, "It is not known as which process a machine runs; retrying", "machine", m.id)
			m.unknown = err
			add(m, m.discover)
			continue
		}
		// The runtime directory may have changed; the record contains the paths of
		// the sockets that the process created.
		m.record = r
		add(m, m.adopt)
	}
	strays, err := l.strays(answering, l.machines)
	for _, id := range strays {
		m := newInstance(l, id)
		m.unknown = errRecordLost
		add(m, m.discover)
	}
	return err
}

func (l *Local) paths(id string) machine.Paths {
	return machine.NewPaths(l.options.DataDir, l.options.RuntimeDir, id)
}

// instance returns the known machine with this ID, or nil.
func (l *Local) instance(id string) *instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machines[id]
}

// ensureInstance returns the machine with this ID and creates it if it is not
// known.
func (l *Local) ensureInstance(id string) (*instance, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	m := l.machines[id]
	if m == nil {
		m = newInstance(l, id)
		l.machines[id] = m
	}
	return m, nil
}

// known returns the machine with this ID, or machine.ErrNotRunning.
func (l *Local) known(id string) (*instance, error) {
	if m := l.instance(id); m != nil {
		return m, nil
	}
	return nil, machine.ErrNotRunning
}

// Start implements [machine.Runner].
func (l *Local) Start(_ context.Context, described machine.Machine) error {
	if err := described.Validate(); err != nil {
		return err
	}
	if described.Kind != machine.KindQEMU {
		return fmt.Errorf("starting qemu for %s: %w: it is of kind %s", described.ID, machine.ErrInvalid, described.Kind)
	}
	m, err := l.ensureInstance(described.ID)
	if err == nil {
		err = m.requestStart(described)
	}
	if err != nil {
		return fmt.Errorf("starting qemu for %s: %w", described.ID, err)
	}
	return nil
}

// resolve fills in the fields that depend on the host: paths, sandbox,
// accelerator, firmware and forwarded ports.
func (l *Local) resolve(ctx context.Context, m machine.Machine) (machine.Machine, program, error) {
	p, err := l.program(ctx, m.Architecture)
	if err != nil {
		return m, p, err
	}
	m.Paths, m.Sandbox = l.paths(m.ID), p.sandbox
	if m.Accelerator == "" {
		choice, err := l.Accelerator(ctx, m.Architecture)
		if err != nil {
			return m, p, err
		}
		m.Accelerator = choice.Accelerator
	}
	if err := hostfs.PrivateDir(m.Paths.Dir); err != nil {
		return m, p, err
	}
	if m.Firmware == (machine.Firmware{}) {
		m.Firmware, err = machineFirmware(l.firmwareDirs(p), m.Architecture, m.Paths.Vars)
		if err != nil {
			return m, p, err
		}
	}
	m.NICs, err = chooseForwards(m.NICs)
	return m, p, err
}

func (l *Local) firmwareDirs(p program) []string {
	if l.options.FirmwareDirs != nil {
		return l.options.FirmwareDirs
	}
	return firmware.Directories(p.path)
}

// program returns QEMU for the architecture, cached while the file exists.
func (l *Local) program(ctx context.Context, arch machine.Architecture) (program, error) {
	find := func(ctx context.Context) (program, error) { return findProgram(ctx, arch) }
	p, err := l.programs.get(ctx, l, arch, find)
	if err != nil {
		return p, err
	}
	if _, err := os.Stat(p.path); err == nil {
		return p, nil
	}
	l.programs.drop(arch)
	return l.programs.get(ctx, l, arch, find)
}

// Observe implements [machine.Runner]. It does no I/O.
func (l *Local) Observe(_ context.Context, id string) (machine.State, error) {
	if err := machine.CheckID(id); err != nil {
		return machine.State{}, err
	}
	m := l.instance(id)
	if m == nil {
		return machine.State{ID: id, Phase: machine.PhaseNotFound, Paths: l.paths(id)}, nil
	}
	return m.state(), nil
}

// List implements [machine.Runner].
func (l *Local) List(ctx context.Context) ([]machine.State, error) {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.machines))
	l.mu.Unlock()
	all := make([]machine.State, 0, len(ids))
	for _, id := range ids {
		s, err := l.Observe(ctx, id)
		if err != nil {
			return nil, err
		}
		if s.Phase != machine.PhaseNotFound {
			all = append(all, s)
		}
	}
	return all, nil
}

// PowerDown implements [machine.Runner].
func (l *Local) PowerDown(_ context.Context, id string) error {
	m, err := l.known(id)
	if err == nil {
		err = m.request("power button", m.powerDown)
	}
	if err != nil {
		return fmt.Errorf("pressing the power button of %s: %w", id, err)
	}
	return nil
}

// Stop implements [machine.Runner].
func (l *Local) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	m := l.instance(id)
	if m == nil {
		return machine.StoppedAlready, nil
	}
	var how machine.StopMethod
	m.interrupt() // a request that waits for a QEMU that hangs must not delay this
	err := m.exclusively(ctx, func() (err error) {
		how, err = m.stop(ctx, o)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("stopping %s: %w", id, err)
	}
	return how, nil
}

// Reset implements [machine.Runner].
func (l *Local) Reset(_ context.Context, id string) error {
	m, err := l.known(id)
	if err == nil {
		err = m.request("reset button", m.reset)
	}
	if err != nil {
		return fmt.Errorf("resetting %s: %w", id, err)
	}
	return nil
}

// SetBootOrder implements [machine.Runner].
func (l *Local) SetBootOrder(_ context.Context, id string, devices []string) error {
	m, err := l.known(id)
	if err == nil {
		err = m.requestBootOrder(devices)
	}
	if err != nil {
		return fmt.Errorf("changing the boot order of %s: %w", id, err)
	}
	return nil
}

// Remove implements [machine.Runner]. It deletes a few small files.
func (l *Local) Remove(_ context.Context, id string) error {
	if err := machine.CheckID(id); err != nil {
		return err
	}
	m := l.instance(id)
	if m == nil {
		m = newInstance(l, id) // an earlier Local may have left files
		defer m.interrupts()
	}
	if err := m.remove(); err != nil {
		return fmt.Errorf("removing %s: %w", id, err)
	}
	l.forget(m)
	return nil
}

// forget drops a machine that was removed.
func (l *Local) forget(m *instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.machines[m.id] == m {
		delete(l.machines, m.id)
	}
}

// Known returns how many machines the Local has in memory, for tests that look for leaks.
// Unlike List it counts those of which nothing but the ID is known.
func (l *Local) Known() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.machines)
}

// Watch implements [machine.Runner].
func (l *Local) Watch(ctx context.Context) <-chan machine.Event { return l.feed.Watch(ctx) }

func (l *Local) publish(id string, t machine.EventType, detail string) {
	l.feed.Publish(machine.Event{ID: id, Type: t, Detail: detail, At: time.Now()})
}
