// SPDX-License-Identifier: Apache-2.0

package qemutest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakeConforms(t *testing.T) {
	qemutest.Conformance(t, func(t *testing.T) qemutest.Harness {
		f := qemutest.NewFake(func(id string) machine.Paths { return machine.NewPaths("/data", "/run", id) })
		nic := func(id, mac string, boot int) machine.NIC {
			return machine.NIC{ID: id, MAC: mac, BootIndex: boot, Backend: machine.Backend{User: &machine.User{}}}
		}
		return qemutest.Harness{
			Runner: f,
			Machine: machine.Machine{
				ID: "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b", Name: "fake", Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256,
				NICs: []machine.NIC{nic("net0", "52:54:00:00:00:01", 1), nic("net1", "52:54:00:00:00:02", 0)},
			},
			Deaf:      f.IgnorePowerButton,
			Crash:     func(_ *testing.T, id string) { f.Exit(id, machine.Exit{Reason: machine.ExitFailed, Code: 1}) },
			Shutdown:  func(_ *testing.T, id string) { f.GuestShutdown(id) },
			Panic:     func(_ *testing.T, id string) { f.Panic(id) },
			FailStart: func(_ *testing.T, id, text string) { f.FailStart(id, text) },
		}
	})
}
