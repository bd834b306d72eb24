// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
)

// TestTry runs firmware under TCG, which always works, and under another
// operating system's accelerator, which never does.
func TestTry(t *testing.T) {
	l := open(t, options(t))
	for _, arch := range []machine.Architecture{machine.X8664, machine.AArch64} {
		if err := l.Try(within(t), arch, machine.TCG); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	foreign := machine.HVF
	if runtime.GOOS == "darwin" {
		foreign = machine.KVM
	}
	if err := l.Try(within(t), machine.X8664, foreign); err == nil || !strings.Contains(err.Error(), string(foreign)) {
		t.Errorf("%s: got %v, want QEMU's error message", foreign, err)
	}
}

// TestAcceleratorChoice runs a machine with the chosen accelerator and checks that
// the next Local makes the same choice.
func TestAcceleratorChoice(t *testing.T) {
	o := options(t)
	o.Accelerator = ""
	stopAll(t, o)
	for _, arch := range []machine.Architecture{machine.X8664, machine.AArch64} {
		l := open(t, o)
		first, err := l.Accelerator(within(t), arch)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", arch, first)
		if (first.Accelerator == machine.TCG) != (first.Reason != "") {
			t.Errorf("%s: got %+v, want a reason for TCG only", arch, first)
		}
		if s := start(t, l, bare(arch)); s.Accelerator != first.Accelerator || s.Phase != machine.PhaseRunning {
			t.Errorf("got state %+v, want it running under %s", s, first.Accelerator)
		}
		l.Close()

		l = open(t, o)
		again, err := l.Accelerator(within(t), arch)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Errorf("choice of the next Local (-want +got):\n%s", diff)
		}
		l.Close()
	}
}

func TestTryEndsWithContext(t *testing.T) {
	l := open(t, options(t))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Try(ctx, machine.X8664, machine.TCG); !errors.Is(err, context.Canceled) {
		t.Errorf("Try: got %v, want context.Canceled", err)
	}
}
