// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/qemu"
)

// TestTry runs firmware with what surely works, and with what surely does not.
func TestTry(t *testing.T) {
	l := open(t, options(t))
	for _, arch := range []qemu.Architecture{qemu.X8664, qemu.AArch64} {
		if err := l.Try(within(t), arch, qemu.TCG); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	foreign := qemu.HVF
	if runtime.GOOS == "darwin" {
		foreign = qemu.KVM
	}
	if err := l.Try(within(t), qemu.X8664, foreign); err == nil || !strings.Contains(err.Error(), string(foreign)) {
		t.Errorf("%s: %v, want QEMU's own words", foreign, err)
	}
}

// TestAcceleratorChoice asks for what works here, whatever that is, and whether a
// machine runs with it.
func TestAcceleratorChoice(t *testing.T) {
	o := options(t)
	o.Accelerator = ""
	stopAll(t, o)
	for _, arch := range []qemu.Architecture{qemu.X8664, qemu.AArch64} {
		l := open(t, o)
		first, err := l.Accelerator(within(t), arch)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", arch, first)
		if (first.Accelerator == qemu.TCG) != (first.Reason != "") {
			t.Errorf("%s: %+v: a reason belongs to TCG and to nothing else", arch, first)
		}
		if s := start(t, l, bare(arch)); s.Accelerator != first.Accelerator || s.Phase != qemu.PhaseRunning {
			t.Errorf("state %+v", s)
		}
		closeLocal(t, l)

		l = open(t, o)
		again, err := l.Accelerator(within(t), arch)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Error("the next Local chooses otherwise:", diff)
		}
		closeLocal(t, l)
	}
}

func TestTryEndsWithContext(t *testing.T) {
	l := open(t, options(t))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Try(ctx, qemu.X8664, qemu.TCG); !errors.Is(err, context.Canceled) {
		t.Errorf("Try: %v, want context.Canceled", err)
	}
}
