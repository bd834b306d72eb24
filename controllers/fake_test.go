// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/nbp"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

// library is a controllers.Content of small files that it makes up: a source's
// content is its own name. It outlives managers, as a store does.
type library struct {
	dir string

	mu       sync.Mutex
	paths    map[string]string    // by digest
	used     map[string]time.Time // by digest
	now      func() time.Time
	failures map[string]error // by source
	gates    map[string]chan struct{}
	seeds    map[string]content.ServerSeed // by path
	programs map[string]string             // content, by architecture
	// diskBytes is what every image needs.
	diskBytes int64
	// free is the free disk space.
	free atomic.Int64
}

var _ controllers.Content = (*library)(nil)

func newLibrary(dir string) *library {
	return &library{
		dir: dir, paths: map[string]string{}, used: map[string]time.Time{}, now: time.Now, failures: map[string]error{}, gates: map[string]chan struct{}{},
		seeds:     map[string]content.ServerSeed{},
		programs:  map[string]string{"x86_64": "ipxe for x86_64", "aarch64": "ipxe for aarch64"},
		diskBytes: 1 << 30,
	}
}

// fail makes a source's content unobtainable until it is called with nil.
func (l *library) fail(source string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[source] = err
}

// hold keeps everything that is asked for from now on waiting until release is
// called.
func (l *library) hold(source string) (release func()) {
	gate := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gates[source] = gate
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.gates, source)
		close(gate)
	})
}

func (l *library) get(ctx context.Context, source string) (content.Blob, error) {
	l.mu.Lock()
	gate, err := l.gates[source], l.failures[source]
	l.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return content.Blob{}, ctx.Err()
		}
	}
	if err != nil {
		return content.Blob{}, err
	}
	return l.store(source)
}

func (l *library) store(text string) (content.Blob, error) {
	sum := sha256.Sum256([]byte(text))
	name := hex.EncodeToString(sum[:])
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return content.Blob{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paths["sha256:"+name] = path
	l.used["sha256:"+name] = l.now()
	return content.Blob{Digest: "sha256:" + name, Size: int64(len(text))}, nil
}

func pinOf(image string) string {
	sum := sha256.Sum256([]byte("pin of " + image))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func nameOf(src artifact.Source) string { return src.URL + src.Path }

func (l *library) File(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error) {
	progress(artifact.Progress{Stage: "downloading", BytesDone: 1e6, BytesTotal: 4e6})
	return l.get(ctx, nameOf(src))
}

func (l *library) Stream(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error) {
	progress(artifact.Progress{Stage: artifact.StageConverting, BytesDone: 1e6, BytesTotal: 2e6})
	blob, err := l.get(ctx, nameOf(src))
	l.mu.Lock()
	defer l.mu.Unlock()
	blob.DiskBytes = l.diskBytes
	blob.Pin = pinOf(nameOf(src))
	return blob, err
}

func (l *library) Overlay(ctx context.Context, architecture string) (content.Blob, error) {
	return l.get(ctx, "overlay for "+architecture)
}

func (l *library) Program(architecture string) (nbp.Program, error) {
	l.mu.Lock()
	text, ok := l.programs[architecture]
	l.mu.Unlock()
	if !ok {
		return nbp.Program{}, fmt.Errorf("iPXE for %s: %w; install your distribution's ipxe package", architecture, fs.ErrNotExist)
	}
	blob, err := l.store(text)
	if err != nil {
		return nbp.Program{}, err
	}
	path, _ := l.Path(blob.Digest)
	return nbp.Program{Path: path, Digest: blob.Digest, Size: blob.Size}, nil
}

// lose deletes a source's content, as someone who deletes files of the store does.
func (l *library) lose(source string) {
	digest, _ := l.Recorded(artifact.Source{Path: source})
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.paths, digest)
}

func (l *library) Path(digest string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path, ok := l.paths[digest]
	return path, ok
}

func (l *library) ServerDisk(ctx context.Context, src artifact.Source, path string, _ int64, _ func(artifact.Progress)) error {
	if _, err := l.get(ctx, nameOf(src)); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("disk"), 0o600))
}

func (l *library) ServerSeed(path string, seed content.ServerSeed) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seeds[path] = seed
	return os.WriteFile(path, []byte("seed"), 0o600)
}

func (l *library) seed(path string) content.ServerSeed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seeds[path]
}

// machines is the fake Runner in which a provisioning VM really runs something:
// an agent that serves the credentials of its seed. Machines outlive managers.
type machines struct {
	*qemutest.Fake
	t       *testing.T
	library *library

	mu        sync.Mutex
	netbootds map[string]*netbootdtest.Server
	observed  map[string]int
	started   map[string]int
	// deaf guests let a stop wait for them as long as it is ready to.
	deaf map[string]bool
	// kept is what netbootds have on their disks.
	kept map[string]netbootdtest.Saved
	// outdated, if set, is the address of the netbootd of the next VM that starts.
	outdated string
	// other has the addresses of such netbootds.
	other    map[string]string
	uploaded map[string]int
	// held uploads wait until their channel is closed.
	held map[string]chan struct{}
	// now is the clock of netbootds.
	now func() time.Time
}

func newMachines(t *testing.T, l *lab) *machines {
	return &machines{
		Fake: qemutest.NewFake(l.paths), t: t, library: l.library, netbootds: map[string]*netbootdtest.Server{},
		observed: map[string]int{}, started: map[string]int{}, deaf: map[string]bool{}, kept: map[string]netbootdtest.Saved{}, uploaded: map[string]int{}, other: map[string]string{},
		held: map[string]chan struct{}{},
	}
}

func (m *machines) Start(ctx context.Context, machine machine.Machine) error {
	before, _ := m.Fake.Observe(ctx, machine.ID)
	if err := m.Fake.Start(ctx, machine); err != nil || before.Phase.Alive() {
		return err
	}
	if after, err := m.Fake.Observe(ctx, machine.ID); err != nil || !after.Phase.Alive() {
		return err // FailStart
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[machine.ID]++
	for _, d := range machine.Disks {
		if d.ID == plan.DeviceSeed {
			if m.other[machine.ID], m.outdated = m.outdated, ""; m.other[machine.ID] != "" {
				continue
			}
			m.netbootds[machine.ID] = m.startNetbootd(m.library.seed(d.Path).Credentials, m.kept[machine.ID])
		}
	}
	return nil
}

// starts returns how often a machine was powered on.
func (m *machines) starts(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started[id]
}

// observations counts the looks at a machine; every reconciliation has one.
func (m *machines) observations(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.observed[id]
}

// looks returns the sum of the observations of all machines.
func (m *machines) looks() (sum int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.observed {
		sum += n
	}
	return sum
}

// uploads returns how often the upload of a file or text to a netbootd was started.
func (m *machines) uploads(digest string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uploaded[digest]
}

// upload counts uploads, and delays those that are held. It is a
// netbootdtest.Options.Upload.
func (m *machines) upload(ctx context.Context, digest string, content io.Reader) (io.Reader, error) {
	m.mu.Lock()
	m.uploaded[digest]++
	held := m.held[digest]
	m.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return content, nil
}

// holdUpload delays the uploads of a source's content until release is called.
func (m *machines) holdUpload(source string) (release func()) {
	digest, _ := m.library.Recorded(artifact.Source{Path: source})
	held := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[digest] = held
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.held, digest)
		close(held)
	})
}

func (m *machines) Observe(ctx context.Context, id string) (machine.State, error) {
	state, err := m.Fake.Observe(ctx, id)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.observed[id]++
	address := m.other[id]
	if n := m.netbootds[id]; n != nil {
		address = n.Address()
	}
	if address != "" && state.Phase.Alive() {
		port := netip.MustParseAddrPort(address).Port()
		state.Forwards = maps.Clone(state.Forwards)
		state.Forwards[plan.DeviceUplink] = []machine.Forward{
			{GuestPort: plan.AgentPort, HostPort: int(port)}, {GuestPort: plan.SSHPort, HostPort: 1},
		}
	}
	return state, err
}

func (m *machines) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	m.mu.Lock()
	deaf := m.deaf[id]
	m.mu.Unlock()
	if deaf && o.ACPITimeout > 0 {
		if err := m.PowerDown(ctx, id); err != nil {
			return "", err
		}
		waiting, cancel := context.WithTimeout(ctx, o.ACPITimeout)
		defer cancel()
		<-waiting.Done()
	}
	method, err := m.Fake.Stop(ctx, id, o)
	if err == nil {
		m.unplug(id)
	}
	return method, err
}

// keepsWaiting is IgnorePowerButton, and a Stop takes the time it gives the
// guest.
func (m *machines) keepsWaiting(id string) {
	m.IgnorePowerButton(id)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf[id] = true
}

// Remove forgets a machine, and what was counted of it.
func (m *machines) Remove(ctx context.Context, id string) error {
	if err := m.Fake.Remove(ctx, id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.observed, id)
	delete(m.started, id)
	delete(m.deaf, id)
	delete(m.kept, id)
	return nil
}

// crash ends a machine's QEMU as a bug in it would.
func (m *machines) crash(id string) {
	m.unplug(id)
	m.Exit(id, machine.Exit{Reason: machine.ExitFailed, Code: 1, Output: "qemu: assertion failed"})
}

func (m *machines) unplug(id string) {
	m.mu.Lock()
	n := m.netbootds[id]
	delete(m.netbootds, id)
	delete(m.other, id)
	m.mu.Unlock()
	if n != nil {
		n.Stop()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.kept[id] = n.Saved()
	}
}

func (m *machines) netbootd(id string) *netbootdtest.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.netbootds[id]
}

// startNetbootd starts the netbootd of a provisioning VM, with what its disk has.
func (m *machines) startNetbootd(credentials *netbootapi.Credentials, kept netbootdtest.Saved) *netbootdtest.Server {
	n := netbootdtest.Start(m.t, netbootdtest.Options{Credentials: credentials, Now: m.now, Saved: kept, Upload: m.upload})
	n.Update(func(s *netbootapi.State) {
		s.Services = map[string]netbootapi.Service{
			"dhcp": {
				Serving: true, Address: "10.88.0.1:67",
			}, "tftp": {Serving: true, Address: "10.88.0.1:69"}, "http": {Serving: true, Address: "10.88.0.1:80"},
			"dns": {Serving: true, Address: "10.88.0.1:53"}, "ntp": {Serving: true, Address: "10.88.0.1:123"},
		}
	})
	return n
}
