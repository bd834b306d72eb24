// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/simulator/internal/control"
	"github.com/pxelab/pxelab/internal/simulator/internal/guest"
	"github.com/pxelab/pxelab/internal/version"
)

const (
	// DefaultIdleTimeout is how long a program without machines and clients waits for
	// the next client: a manager that restarts needs less.
	DefaultIdleTimeout = 30 * time.Second
	// saveDelay limits how often the resets of a machine cause its record to be
	// written.
	saveDelay = time.Second
	// endTimeout is how long the guests may take to end with the program.
	endTimeout = 10 * time.Second
	// recordCheck is how often the program checks that it can still be found.
	recordCheck = 10 * time.Second
)

// Options configure Run.
type Options struct {
	// DataDir is the lab's data directory, RuntimeDir the parent of the socket. Both
	// are absolute.
	DataDir, RuntimeDir string
	// IdleTimeout is how long Run waits for a client while there is neither a client
	// nor a machine; 0 is DefaultIdleTimeout.
	IdleTimeout time.Duration
	Log         logr.Logger
	// Booting is how many machines boot at a time; 0 is a default that depends on the
	// number of processors.
	Booting int
	// NewGuest replaces guest.New in tests.
	NewGuest func(guest.Config) Guest
}

// Guest is what runs in a machine; *guest.Guest implements it. All methods are safe
// for concurrent use, and only Run blocks.
type Guest interface {
	// Receive delivers a frame to a NIC. The frame belongs to the guest.
	Receive(nicID string, frame []byte)
	// Run runs the guest until it powers off or ctx ends.
	Run(ctx context.Context) guest.End
	Reset()
	PowerButton()
}

// server is the state of Run.
type server struct {
	options Options
	log     logr.Logger
	self    process.Identity
	hello   []byte // the encoded Hello
	// ctx ends with Run, and stop ends it.
	ctx  context.Context //nolint:containedctx // its lifetime is that of Run
	stop context.CancelFunc

	readers, writers, guests sync.WaitGroup

	// handling is held while a request is handled.
	handling sync.Mutex

	mu       sync.Mutex
	machines map[string]*instance
	clients  map[*client]struct{}
	// received are the highest sequences of the requests of each Runner.
	received map[string]uint64
	// retiring refuses new machines and clients for good.
	retiring bool
	idle     *time.Timer
	dirty    map[*instance]struct{}
	// wakeSaver holds a token when dirty is not empty.
	wakeSaver chan struct{}
	places    *places
}

// Run runs simulated machines on request until ctx ends, a client retires it, or it
// has been idle. All machines have ended when it returns; those that were running are
// recorded as failed, as those of a QEMU that was terminated. One process at a time
// runs the machines of a data directory; in any other one Run returns ErrRuns.
func Run(ctx context.Context, o Options) (err error) {
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	if o.NewGuest == nil {
		o.NewGuest = func(c guest.Config) Guest { return guest.New(c) }
	}
	p, err := acquire(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.release()) }()
	hello, err := control.Encode(control.Message{Hello: &control.Hello{
		Protocol: control.Version, Program: version.Digest(), Release: version.String(), Process: p.record.Process,
	}})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &server{
		options: o, log: o.Log, self: p.record.Process, hello: hello, ctx: ctx, stop: stop,
		machines: map[string]*instance{}, clients: map[*client]struct{}{}, received: map[string]uint64{}, dirty: map[*instance]struct{}{},
		wakeSaver: make(chan struct{}, 1), places: newPlaces(o.Booting, longestBoot),
	}
	s.log.Info("Running simulated machines", "version", version.String(), "data", o.DataDir, "socket", p.record.Socket,
		"descriptors", descriptorLimit())
	s.idle = time.AfterFunc(o.IdleTimeout, s.idled)
	defer s.idle.Stop()
	s.serve(p)
	s.log.Info("Exiting")
	return nil
}

// serve serves clients until s.ctx ends, and then ends clients and machines. It keeps
// the record of the program.
func (s *server) serve(p *program) {
	s.readers.Go(func() { s.accept(p.listener) })
	s.guests.Go(s.save)
	tick := time.NewTicker(recordCheck)
	defer tick.Stop()
	for s.ctx.Err() == nil {
		select {
		case <-s.ctx.Done():
		case <-tick.C:
			if err := p.keepRecord(); err != nil {
				s.log.Error(err, "Recording this process")
			}
		}
	}

	s.mu.Lock()
	s.retiring = true
	clients := slices.Collect(maps.Keys(s.clients))
	s.mu.Unlock()
	_ = p.listener.Close()
	for _, c := range clients {
		c.stopReading()
	}
	s.readers.Wait()
	// The guests end with s.ctx. Their ends are sent before the clients are closed.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.guests.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(endTimeout):
		s.log.Info("Some machines have not ended", "after", endTimeout)
	}
	for _, c := range clients {
		c.finish()
	}
	s.writers.Wait()
}

// accept serves clients until the listener is closed.
func (s *server) accept(listener *net.UnixListener) {
	for {
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil {
			s.log.Error(err, "Accepting a client")
			select { // such as for lack of descriptors
			case <-time.After(time.Second):
			case <-s.ctx.Done():
			}
			continue
		}
		if err := control.CheckPeer(conn); err != nil {
			s.log.Error(err, "Refusing a client")
			_ = conn.Close()
			continue
		}
		s.connect(conn)
	}
}

// idled ends a program that has no use.
func (s *server) idled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.machines) == 0 && len(s.clients) == 0 {
		s.retiring = true
		s.stop()
	}
}

// checkIdle starts or stops the time after which an idle program ends. The caller
// holds mu.
func (s *server) checkIdle() {
	if len(s.machines) == 0 && len(s.clients) == 0 {
		s.idle.Reset(s.options.IdleTimeout)
	} else {
		s.idle.Stop()
	}
}

// save writes the records of machines that have changed, until s.ctx ends.
func (s *server) save() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wakeSaver:
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(saveDelay):
		}
		s.mu.Lock()
		batch := s.dirty
		s.dirty = map[*instance]struct{}{}
		s.mu.Unlock()
		for m := range batch {
			m.save()
		}
	}
}

// saveSoon causes the record of a machine to be written.
func (s *server) saveSoon(m *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[m] = struct{}{}
	select {
	case s.wakeSaver <- struct{}{}:
	default:
	}
}
