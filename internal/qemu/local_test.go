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

	"github.com/pxelab/pxelab/internal/paths/pathstest"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is how long anything may take before a test calls it broken.
const limit = 2 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// options are of a lab of the test's own, always emulated: this tests the Runner.
func options(t *testing.T) qemu.Options {
	t.Helper()
	return qemu.Options{
		DataDir: t.TempDir(), RuntimeDir: pathstest.Short(t), Accelerator: qemu.TCG,
		Log: testr.NewWithOptions(t, testr.Options{Verbosity: 1}),
	}
}

func open(t *testing.T, o qemu.Options) *qemu.Local {
	t.Helper()
	l, err := qemu.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// stopAll ends what a test has left running in the lab, with a Local of its own.
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
			if _, err := l.Stop(context.Background(), s.ID, qemu.StopOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
}

// bare is a machine without a disk, with two network cards that lead nowhere.
func bare(arch qemu.Architecture) qemu.Machine {
	nic := func(n, boot int) qemu.NIC {
		return qemu.NIC{
			ID: fmt.Sprintf("net%d", n), MAC: fmt.Sprintf("52:54:00:00:00:%02x", n), BootIndex: boot,
			Backend: qemu.Backend{User: &qemu.User{Restrict: true}},
		}
	}
	return qemu.Machine{
		ID: uuid.NewString(), Name: "bare, with a comma", Architecture: arch, CPUs: 1, MemoryMiB: 256,
		NICs: []qemu.NIC{nic(0, 1), nic(1, 0)},
	}
}

func conforms(t *testing.T, arch qemu.Architecture) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		o := options(t)
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
		if arch == qemu.X8664 {
			h.Shutdown = func(t *testing.T, id string) { shutDown(t, l, id) }
			h.Panic = func(t *testing.T, id string) { monitor(t, l, id, "o /b 0x505 1") }
		}
		return h
	})
}

func monitor(t *testing.T, l *qemu.Local, id, command string) string {
	t.Helper()
	out, err := l.Monitor(within(t), id, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shutDown enters ACPI sleep state S5 as a guest would, by PM1a_CNT.SLP_EN. The
// firmware must have put the power management block at its place first.
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
			t.Fatal("the firmware printed nothing")
		}
	}
}

func TestLocalConforms(t *testing.T) {
	t.Run("x86_64", func(t *testing.T) { conforms(t, qemu.X8664) })
	t.Run("aarch64", func(t *testing.T) { conforms(t, qemu.AArch64) })
}
