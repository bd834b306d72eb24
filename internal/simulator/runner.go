// SPDX-License-Identifier: Apache-2.0

package simulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
)

const (
	// adoptTimeout is how long New waits for a running program.
	adoptTimeout = 2 * time.Second
	// requestPause is the time between attempts at a boot order that failed.
	requestPause = 2 * time.Second
)

// Options configure a Runner.
type Options struct {
	// DataDir is the lab's data directory; it contains the machines' files. The caller
	// owns it, by ownership.AcquireDirectory, until the Runner is closed.
	DataDir string
	// RuntimeDir contains the sockets. Its path must be short; see
	// [hostfs.MaxSocketPath].
	RuntimeDir string
	// Program is the path of the simulator program. It is started with the first
	// machine.
	Program string
	Log     logr.Logger
}

// Runner is the [machine.Runner] of simulated machines. Machines keep running when it
// is closed or its process is killed, and the next Runner on the same data directory
// adopts them. Only NICs with the backend [machine.Dgram] can be simulated.
//
// All machines of a data directory end with the one process that runs them: their Exit
// is then [machine.ExitFailed], and the next start starts a new process. A process of
// another build is used until it runs no machine; one that speaks another version of
// the protocol is terminated.
type Runner struct {
	options Options
	files   control.Files
	log     logr.Logger
	feed    machine.Feed

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	// wake holds a token when the outbox has changed.
	wake chan struct{}

	mu       sync.Mutex
	closed   bool
	machines map[string]*entry
	// outbox are the requests that have not been sent, in their order, and sent those
	// that have not been answered. sequence is that of the last one that was sent; with
	// name, it lets the program recognise requests of earlier connections.
	outbox   []*call
	sent     map[uint64]*call
	sequence uint64
	name     string
	// responsive is set while the program answers.
	responsive bool
	// program is the one that was connected last, and child the one that this Runner
	// has started last.
	program process.Identity
	child   *child
	// settled is closed when the state of the recorded machines is known.
	settled     chan struct{}
	settledOnce sync.Once
	// digest returns that of Options.Program; empty if it cannot be read.
	digest func() string
}

var _ machine.Runner = (*Runner)(nil)

// entry is what is known of a machine; guarded by Runner.mu.
type entry struct {
	id     string
	record control.Record
	// starting is the start that was accepted and is not yet known to be carried out.
	starting *call
	// removing is set while the machine's files are being deleted.
	removing bool
	// underway are the requests that are being carried out.
	underway map[control.Operation]bool
	order    *bootOrder
	// changed is closed and replaced when the entry has changed.
	changed chan struct{}
}

// bootOrder is a requested boot order.
type bootOrder struct {
	devices []string
	// err is why the last attempt failed, nil while one is under way.
	err     error
	retryAt time.Time
}

// call is a request to the program.
type call struct {
	request control.Request
	// revoked is set for a start that a Stop has followed: it is not sent again. It is
	// guarded by Runner.mu.
	revoked bool
	// ended is called once, without locks, with the reply's error or why there is none.
	ended func(error)
}

// New returns a Runner that adopts the machines of the data directory. It waits up to
// two seconds until a running program has answered, and starts none. It does not check
// that the caller owns the directory (see [Options]). The caller closes the Runner.
func New(o Options) (*Runner, error) {
	for what, dir := range map[string]string{"data": o.DataDir, "runtime": o.RuntimeDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("the %s directory %q is not an absolute path", what, dir)
		}
	}
	longest := machine.NewSimulatedPaths(o.DataDir, o.RuntimeDir, uuid.Nil.String()).Serial
	if err := machine.CheckSocketPath("serial socket", longest); err != nil {
		return nil, err
	}
	files := control.NewFiles(o.DataDir, o.RuntimeDir)
	for _, dir := range []string{filepath.Join(o.DataDir, "machines"), o.RuntimeDir, filepath.Dir(files.Record), filepath.Dir(files.Log)} {
		if err := hostfs.PrivateDir(dir); err != nil {
			return nil, fmt.Errorf("preparing for simulated machines: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{
		options: o, files: files, log: o.Log, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), machines: map[string]*entry{}, sent: map[uint64]*call{}, name: uuid.NewString(),
		settled: make(chan struct{}), digest: sync.OnceValue(func() string { return digestOf(o.Program) }),
	}
	if err := r.load(); err != nil {
		cancel()
		return nil, err
	}
	r.tasks.Go(r.run)
	select {
	case <-r.settled:
	case <-time.After(adoptTimeout): // its machines are in PhaseUnresponsive
	}
	return r, nil
}

// load reads the records of an earlier Runner and program.
func (r *Runner) load() error {
	dirs, err := os.ReadDir(filepath.Join(r.options.DataDir, "machines"))
	if err != nil {
		return fmt.Errorf("listing the machines: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() || machine.CheckID(d.Name()) != nil {
			continue
		}
		id := d.Name()
		path := r.paths(id).Record
		record, err := control.Load(path, id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			// A program that runs the machine reports it nevertheless.
			r.log.Error(err, "A machine's record is unusable and was set aside", "machine", id)
			if err := hostfs.SetAside(path, path+machine.UnusableSuffix); err != nil {
				return fmt.Errorf("setting aside the record of %s: %w", id, err)
			}
			continue
		}
		r.ensure(id).record = record
	}
	return nil
}

// Close releases all machines, which keep running, and returns when the Runner's
// goroutines have ended. Idempotent.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.tasks.Wait()
}

var errClosed = errors.New("the runner of simulated machines is closed")

func (r *Runner) paths(id string) machine.Paths {
	return machine.NewSimulatedPaths(r.options.DataDir, r.options.RuntimeDir, id)
}

// ensure returns the entry of a machine. The caller holds mu.
func (r *Runner) ensure(id string) *entry {
	e := r.machines[id]
	if e == nil {
		e = &entry{id: id, underway: map[control.Operation]bool{}, changed: make(chan struct{})}
		r.machines[id] = e
	}
	return e
}

// notify wakes the callers of await. The caller holds the Runner's mu.
func (e *entry) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// active reports whether the machine runs or starts. The caller holds the Runner's mu.
func (e *entry) active() bool { return e.starting != nil || e.record.Alive() }

// startedAt returns when the current start was accepted, the zero Time if the machine is
// not active. It identifies the power-on. The caller holds the Runner's mu.
func (e *entry) startedAt() time.Time {
	switch {
	case e.record.Alive():
		return e.record.StartedAt
	case e.starting != nil:
		return e.starting.request.Record.StartedAt
	default:
		return time.Time{}
	}
}

func (r *Runner) publish(id string, t machine.EventType, detail string) {
	r.feed.Publish(machine.Event{ID: id, Type: t, Detail: detail, At: time.Now()})
}

// enqueue sends a request to the program, which is started for a request to start a
// machine. The caller holds mu.
func (r *Runner) enqueue(c *call) {
	r.outbox = append(r.outbox, c)
	r.poke()
}

// number gives a request that is about to be sent its sequence. The caller holds mu.
func (r *Runner) number(request *control.Request) {
	r.sequence++
	request.Sequence = r.sequence
}

func (r *Runner) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// await blocks until the condition, evaluated with mu held, is true.
func (r *Runner) await(ctx context.Context, e *entry, condition func() bool) error {
	return machine.Await(ctx, r.ctx.Done(), func() (bool, <-chan struct{}) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return condition(), e.changed
	})
}

// Known returns how many machines the Runner has in memory, for tests that look for
// leaks.
func (r *Runner) Known() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.machines)
}

// Watch implements [machine.Runner].
func (r *Runner) Watch(ctx context.Context) <-chan machine.Event { return r.feed.Watch(ctx) }
