// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

func TestMain(m *testing.M) {
	qemutest.RunProgram()
	runShortLived()
	goleak.VerifyTestMain(m)
}

// limit bounds every operation of a test.
const limit = 2 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// options returns the options of a separate lab per test. Its machines are always
// emulated, because the Runner is under test, not the accelerator.
func options(t *testing.T) qemu.Options {
	t.Helper()
	return qemu.Options{
		DataDir: t.TempDir(), RuntimeDir: pathstest.Short(t), Accelerator: machine.TCG,
		Log: testr.NewWithOptions(t, testr.Options{Verbosity: 1}),
	}
}

func open(t *testing.T, o qemu.Options) *qemu.Local {
	t.Helper()
	l, err := qemu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// stopAll stops the machines that the test leaves running, with a separate Local.
func stopAll(t *testing.T, o qemu.Options) {
	t.Cleanup(func() {
		l, err := qemu.New(o)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		all, err := l.List(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, s := range all {
			if _, err := l.Stop(context.Background(), s.ID, machine.StopOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
}

// bare returns a machine without disks and with two NICs that reach no network.
func bare(arch machine.Architecture) machine.Machine {
	nic := func(n, boot int) machine.NIC {
		return machine.NIC{
			ID: fmt.Sprintf("net%d", n), MAC: fmt.Sprintf("52:54:00:00:00:%02x", n), BootIndex: boot,
			Backend: machine.Backend{User: &machine.User{Restrict: true}},
		}
	}
	return machine.Machine{
		ID: uuid.NewString(), Name: "bare, with a comma", Architecture: arch, CPUs: 1, MemoryMiB: 256,
		NICs: []machine.NIC{nic(0, 1), nic(1, 0)},
	}
}

func conforms(t *testing.T, arch machine.Architecture) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		return harness(t, arch, options(t))
	})
}

// harness returns a Local and the functions that simulate its guests.
func harness(t *testing.T, arch machine.Architecture, o qemu.Options) qemutest.Harness {
	t.Helper()
	stopAll(t, o)
	l := open(t, o)
	h := qemutest.Harness{
		Runner: l, Machine: bare(arch),
		Crash: func(t *testing.T, id string) {
			s, err := l.Observe(within(t), id)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(s.PID, syscall.SIGSEGV); err != nil {
				t.Fatal(err)
			}
		},
	}
	if arch == machine.X8664 {
		h.Shutdown = func(t *testing.T, id string) { shutDown(t, l, id) }
		h.Panic = func(t *testing.T, id string) { monitor(t, l, id, "o /b 0x505 1") }
	}
	return h
}

func monitor(t *testing.T, l *qemu.Local, id, command string) string {
	t.Helper()
	out, err := l.Monitor(within(t), id, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shutDown enters ACPI sleep state S5 as a guest would, through PM1a_CNT.SLP_EN.
// It first waits until the firmware has mapped the power management block.
func shutDown(t *testing.T, l *qemu.Local, id string) {
	t.Helper()
	awaitSerial(t, l, id)
	monitor(t, l, id, "o /w 0x604 0x2000")
}

// awaitSerial waits until the firmware has printed something.
func awaitSerial(t *testing.T, l *qemu.Local, id string) {
	t.Helper()
	s, err := l.Observe(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := os.Stat(s.Paths.SerialLog)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("timed out waiting for the firmware's first output")
		}
	}
}

func TestLocalConforms(t *testing.T) {
	t.Run("x86_64", func(t *testing.T) { conforms(t, machine.X8664) })
	t.Run("aarch64", func(t *testing.T) { conforms(t, machine.AArch64) })
}

// TestLocalConformsWithFakeProgram runs the suite without guests.
func TestLocalConformsWithFakeProgram(t *testing.T) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		p, o := fakeProgram(t)
		h := harness(t, machine.X8664, o)
		h.FailStart = func(t *testing.T, id, text string) { p.Set(t, id, qemutest.Faults{FailStart: text}) }
		return h
	})
}

// fakeProgram installs the fake of QEMU's program and returns options that use it.
func fakeProgram(t *testing.T) (*qemutest.Program, qemu.Options) {
	t.Helper()
	p, o := qemutest.InstallProgram(t), options(t)
	o.FirmwareDirs, o.Readable = p.FirmwareDirs, p.Readable
	return p, o
}
