// SPDX-License-Identifier: Apache-2.0

package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/machine/dispatch"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b"

func described(id string, kind machine.Kind) machine.Machine {
	nic := func(id, mac string, boot int) machine.NIC {
		return machine.NIC{ID: id, MAC: mac, BootIndex: boot, Backend: machine.Backend{User: &machine.User{}}}
	}
	return machine.Machine{
		ID: id, Name: "machine", Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256, Kind: kind,
		NICs: []machine.NIC{nic("net0", "52:54:00:00:00:01", 1), nic("net1", "52:54:00:00:00:02", 0)},
	}
}

func fake() *qemutest.Fake {
	return qemutest.NewFake(func(id string) machine.Paths { return machine.NewPaths("/data", "/run", id) })
}

func TestConforms(t *testing.T) {
	for _, kind := range []machine.Kind{machine.KindQEMU, machine.KindSimulated} {
		t.Run(string(kind), func(t *testing.T) {
			qemutest.Conformance(t, func(*testing.T) qemutest.Harness {
				qemu, simulated := fake(), fake()
				f := qemu
				if kind == machine.KindSimulated {
					f = simulated
				}
				return qemutest.Harness{
					Runner: dispatch.New(qemu, simulated), Machine: described(id, kind), Deaf: f.IgnorePowerButton,
					Crash:     func(_ *testing.T, id string) { f.Exit(id, machine.Exit{Reason: machine.ExitFailed, Code: 1}) },
					Shutdown:  func(_ *testing.T, id string) { f.GuestShutdown(id) },
					Panic:     func(_ *testing.T, id string) { f.Panic(id) },
					FailStart: func(_ *testing.T, id, text string) { f.FailStart(id, text) },
				}
			})
		})
	}
}

// TestEachKindHasItsRunner has one machine of each kind.
func TestEachKindHasItsRunner(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	qemu, simulated := fake(), fake()
	r := dispatch.New(qemu, simulated)
	events := r.Watch(ctx)
	const other = "10000000-5d2b-4b8e-9a51-0c1d2e3f4a5b"
	for _, m := range []machine.Machine{described(id, machine.KindQEMU), described(other, machine.KindSimulated)} {
		if err := r.Start(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	for what, f := range map[string]*qemutest.Fake{id: qemu, other: simulated} {
		states, err := f.List(ctx)
		if err != nil || len(states) != 1 || states[0].ID != what {
			t.Errorf("the runner of %s: got list %+v, error %v; want only it", what, states, err)
		}
	}
	states, err := r.List(ctx)
	if err != nil || len(states) != 2 || states[0].ID != other || states[1].ID != id {
		t.Errorf("got list %+v, error %v; want both machines by ID", states, err)
	}
	var seen []string
	for len(seen) < 2 {
		if e := <-events; e.Type == machine.EventStarted {
			seen = append(seen, e.ID)
		}
	}
	slices.Sort(seen)
	if !slices.Equal(seen, []string{other, id}) {
		t.Errorf("got the start of %v, want that of both machines", seen)
	}
	cancel()
	for range events {
	}
}

// TestStartOfAnotherKind covers a machine of one kind that is started as another.
func TestStartOfAnotherKind(t *testing.T) {
	ctx := t.Context()
	qemu, simulated := fake(), fake()
	r := dispatch.New(qemu, simulated)
	if err := r.Start(ctx, described(id, machine.KindQEMU)); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(ctx, described(id, machine.KindSimulated)); err != nil {
		t.Errorf("while it runs: got error %v, want it left as it is", err)
	}
	if s, err := simulated.Observe(ctx, id); err != nil || s.Phase != machine.PhaseNotFound {
		t.Errorf("while it runs: the other runner has state %+v, error %v; want none", s, err)
	}
	if err := r.Remove(ctx, id); !errors.Is(err, machine.ErrRunning) {
		t.Errorf("Remove while it runs: got error %v, want %v", err, machine.ErrRunning)
	}
	if _, err := r.Stop(ctx, id, machine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(ctx, described(id, machine.KindSimulated)); err != nil {
		t.Fatal(err)
	}
	if s, err := qemu.Observe(ctx, id); err != nil || s.Phase != machine.PhaseNotFound {
		t.Errorf("after its stop: the first runner has state %+v, error %v; want it removed", s, err)
	}
	if s, err := r.Observe(ctx, id); err != nil || s.Phase != machine.PhaseRunning {
		t.Errorf("got state %+v, error %v; want it running", s, err)
	}
}
