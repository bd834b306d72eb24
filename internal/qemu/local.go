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
	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/firmware"
)

// Options are what a Local needs.
type Options struct {
	// DataDir is the lab's data directory; machines live below it.
	DataDir string
	// RuntimeDir is for sockets. Its path must be short; see MaxSocketPath.
	RuntimeDir string
	// FirmwareDirs are searched for firmware descriptors; nil means the usual ones.
	FirmwareDirs []string
	// Accelerator forces one instead of trying what works.
	Accelerator Accelerator
	Log         logr.Logger
}

// Local is the [Runner] whose machines are processes of this computer.
//
// It keeps one QMP connection to each machine, and nobody else may talk QMP to
// them: QEMU serves one client at a time. Machines go on when it is closed, or
// killed, and the next Local on the same data directory adopts them.
type Local struct {
	options Options
	lock    *flock.Flock
	feed    Feed
	log     logr.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	machines map[string]*machine
	closed   bool

	programs     sync.Mutex // guards the two below
	known        map[Architecture]program
	accelerators map[Architecture]Choice
}

var _ Runner = (*Local)(nil)

// New takes over the machines of a data directory. It fails when another Local,
// of this or another program, has it. The caller closes it.
func New(o Options) (*Local, error) {
	for what, dir := range map[string]string{"data": o.DataDir, "runtime": o.RuntimeDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("the %s directory %q is not an absolute path", what, dir)
		}
	}
	if err := socket("QMP socket", NewPaths(o.DataDir, o.RuntimeDir, uuid.Nil.String()).Serial); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(o.DataDir, "machines"), o.RuntimeDir} {
		if err := privateDir(dir); err != nil {
			return nil, fmt.Errorf("preparing for virtual machines: %w", err)
		}
	}
	lock := flock.New(filepath.Join(o.DataDir, "machines", ".lock"), flock.SetPermissions(0o600))
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", lock.Path(), err)
	}
	if !got {
		return nil, fmt.Errorf("another pxelab manager runs the machines of %s: stop it first", o.DataDir)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Local{
		options: o, lock: lock, log: o.Log, ctx: ctx, cancel: cancel,
		machines:     map[string]*machine{},
		known:        map[Architecture]program{},
		accelerators: map[Architecture]Choice{},
	}
	if err := l.adoptAll(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close lets go of all machines, which go on running, and returns when nothing
// of the Local does. Idempotent.
func (l *Local) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.tasks.Wait()
	return l.lock.Close()
}

// adoptAll finds what an earlier Local has left.
func (l *Local) adoptAll() error {
	dirs, err := os.ReadDir(filepath.Join(l.options.DataDir, "machines"))
	if err != nil {
		return fmt.Errorf("looking for machines: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() || checkID(d.Name()) != nil {
			continue
		}
		id := d.Name()
		paths := l.paths(id)
		r, err := load(paths.Record, id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			// Without its record the machine is unknown; its process, if any, is
			// found by its socket when it is started again.
			l.log.Error(err, "A machine's record is unusable and was set aside", "machine", id)
			if err := os.Rename(paths.Record, paths.Record+".unusable"); err != nil {
				return fmt.Errorf("setting aside the record of %s: %w", id, err)
			}
			continue
		}
		// The runtime directory may have moved, and where sockets are is then known
		// by the record of the process that made them.
		m := newMachine(l, id, r)
		l.machines[id] = m
		m.adopt(l.ctx)
	}
	return nil
}

// checkID refuses what is no UUID, which a path could hide in.
func checkID(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return invalid("id %q is not a UUID in lower-case canonical form", id)
	}
	return nil
}

func (l *Local) paths(id string) Paths {
	return NewPaths(l.options.DataDir, l.options.RuntimeDir, id)
}

// machine is the known machine with this ID, or nil.
func (l *Local) machine(id string) *machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machines[id]
}

// ensureMachine is the machine with this ID, made if it is not known.
func (l *Local) ensureMachine(id string) (*machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("the runner of virtual machines is closed")
	}
	m := l.machines[id]
	if m == nil {
		m = newMachine(l, id, record{})
		l.machines[id] = m
	}
	return m, nil
}

// alive is the known machine if its process lives.
func (l *Local) alive(id string) (*machine, error) {
	if m := l.machine(id); m != nil && m.alive() {
		return m, nil
	}
	return nil, ErrNotRunning
}

// Start is [Runner.Start].
func (l *Local) Start(ctx context.Context, described Machine) error {
	if err := described.Validate(); err != nil {
		return err
	}
	m, err := l.ensureMachine(described.ID)
	if err != nil {
		return err
	}
	if err := m.exclusively(ctx, func() error { return m.start(ctx, described) }); err != nil {
		return fmt.Errorf("starting qemu for %s: %w", described.ID, err)
	}
	return nil
}

// resolve fills in what describes the host.
func (l *Local) resolve(ctx context.Context, m Machine) (Machine, program, error) {
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
	if err := privateDir(m.Paths.Dir); err != nil {
		return m, p, err
	}
	if m.Firmware == (Firmware{}) {
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

// program finds QEMU for the architecture once.
func (l *Local) program(ctx context.Context, arch Architecture) (program, error) {
	l.programs.Lock()
	defer l.programs.Unlock()
	if p, ok := l.known[arch]; ok {
		if _, err := os.Stat(p.path); err == nil {
			return p, nil
		}
	}
	p, err := findProgram(ctx, arch)
	if err == nil {
		l.known[arch] = p
	}
	return p, err
}

// Observe is [Runner.Observe]. It asks a running machine and waits for an answer
// for two seconds at most.
func (l *Local) Observe(ctx context.Context, id string) (State, error) {
	if err := checkID(id); err != nil {
		return State{}, err
	}
	m := l.machine(id)
	if m == nil {
		return State{ID: id, Phase: PhaseNotFound, Paths: l.paths(id)}, nil
	}
	return m.observe(ctx)
}

// List is [Runner.List].
func (l *Local) List(ctx context.Context) ([]State, error) {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.machines))
	l.mu.Unlock()
	all := make([]State, 0, len(ids))
	for _, id := range ids {
		s, err := l.Observe(ctx, id)
		if err != nil {
			return nil, err
		}
		if s.Phase != PhaseNotFound {
			all = append(all, s)
		}
	}
	return all, nil
}

// PowerDown is [Runner.PowerDown].
func (l *Local) PowerDown(ctx context.Context, id string) error {
	m, err := l.alive(id)
	if err == nil {
		err = m.exclusively(ctx, func() error { return m.powerDown(ctx) })
	}
	if err != nil {
		return fmt.Errorf("pressing the power button of %s: %w", id, err)
	}
	return nil
}

// Stop is [Runner.Stop].
func (l *Local) Stop(ctx context.Context, id string, o StopOptions) (StopMethod, error) {
	m := l.machine(id)
	if m == nil {
		return StoppedAlready, nil
	}
	var how StopMethod
	err := m.exclusively(ctx, func() (err error) {
		how, err = m.stop(ctx, o)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("stopping %s: %w", id, err)
	}
	return how, nil
}

// Reset is [Runner.Reset].
func (l *Local) Reset(ctx context.Context, id string) error {
	m, err := l.alive(id)
	if err == nil {
		err = m.exclusively(ctx, func() error { return m.reset(ctx) })
	}
	if err != nil {
		return fmt.Errorf("resetting %s: %w", id, err)
	}
	return nil
}

// SetBootOrder is [Runner.SetBootOrder].
func (l *Local) SetBootOrder(ctx context.Context, id string, devices []string) error {
	m, err := l.alive(id)
	if err == nil {
		err = m.exclusively(ctx, func() error { return m.setBootOrder(ctx, devices) })
	}
	if err != nil {
		return fmt.Errorf("changing the boot order of %s: %w", id, err)
	}
	return nil
}

// Remove is [Runner.Remove].
func (l *Local) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	m, err := l.ensureMachine(id)
	if err != nil {
		return err
	}
	err = m.exclusively(ctx, m.remove)
	if err != nil {
		return fmt.Errorf("removing %s: %w", id, err)
	}
	return nil
}

// Watch is [Runner.Watch].
func (l *Local) Watch(ctx context.Context) <-chan Event { return l.feed.Watch(ctx) }

func (l *Local) publish(id string, t EventType, detail string) {
	l.feed.Publish(Event{ID: id, Type: t, Detail: detail, At: time.Now()})
}
