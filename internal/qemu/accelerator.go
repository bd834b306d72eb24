// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/firmware"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

// Choice is an accelerator and, for TCG, the reason for emulation.
type Choice struct {
	Accelerator machine.Accelerator `json:"accelerator"`
	// Reason is human-readable; empty when the host's virtualization is used.
	Reason string `json:"reason,omitempty"`
}

// tryTimeout bounds the wait for the firmware's first output. The firmware needs
// a second or two on an idle host, and an accelerator that fails does so sooner:
// the timeout is for an accelerator that hangs.
const tryTimeout = time.Minute

// Accelerator returns the best accelerator that works on this host for the
// architecture. Opening /dev/kvm proves nothing (this host may be a virtual
// machine with incomplete nested virtualization), so the first call blocks while
// it runs UEFI firmware until the firmware prints something. The result is cached
// in the data directory until the host reboots or QEMU changes.
func (l *Local) Accelerator(ctx context.Context, arch machine.Architecture) (Choice, error) {
	if l.options.Accelerator != "" {
		return Choice{Accelerator: l.options.Accelerator}, nil
	}
	p, err := l.program(ctx, arch)
	if err != nil {
		return Choice{}, err
	}
	return l.accelerators.get(ctx, l, arch, func(ctx context.Context) (Choice, error) {
		c, err := l.choose(ctx, arch, p)
		if err == nil {
			l.log.Info("Chose an accelerator", "architecture", arch, "accelerator", c.Accelerator, "reason", c.Reason)
		}
		return c, err
	})
}

// choose returns the cached choice, or tries the candidate and caches the result.
func (l *Local) choose(ctx context.Context, arch machine.Architecture, p program) (Choice, error) {
	candidate, why := candidate(arch)
	if candidate == machine.TCG {
		return Choice{machine.TCG, why}, nil
	}
	kept := filepath.Join(l.options.DataDir, "machines", "accelerator-"+string(arch)+".json")
	key := hostKey(p)
	if c, ok := loadChoice(kept, key); ok {
		return c, nil
	}
	trying, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	err := l.Try(trying, arch, candidate)
	if ctx.Err() != nil {
		return Choice{}, ctx.Err()
	}
	c := Choice{Accelerator: candidate}
	if err != nil {
		c = Choice{machine.TCG, fmt.Sprintf("%s cannot run a guest on this host, so %s machines are emulated, which is slow: %v",
			candidate, arch, err)}
	}
	if trying.Err() != nil {
		return c, nil // Not cached: a busy host may succeed next time.
	}
	return c, saveChoice(kept, key, c)
}

// candidate returns the accelerator that this host should have, or TCG and the
// reason.
func candidate(arch machine.Architecture) (machine.Accelerator, string) {
	host := map[string]machine.Architecture{"amd64": machine.X8664, "arm64": machine.AArch64}[runtime.GOARCH]
	if host != arch {
		return machine.TCG, fmt.Sprintf("%s machines are emulated on this %s host", arch, runtime.GOARCH)
	}
	switch runtime.GOOS {
	case "darwin":
		return machine.HVF, ""
	case "linux":
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR|syscall.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, os.ErrPermission):
			return machine.TCG, "KVM needs permission to open /dev/kvm (add the user to the group kvm), so machines are emulated, which is slow"
		case err != nil:
			return machine.TCG, fmt.Sprintf("KVM is not available (%v), so machines are emulated, which is slow", err)
		}
		f.Close()
		return machine.KVM, ""
	default:
		return machine.TCG, "no accelerator is known for " + runtime.GOOS
	}
}

// hostKey changes when a cached choice may no longer hold.
func hostKey(p program) string {
	boot, err := process.BootID()
	if err != nil {
		boot = time.Now().String() // never equal: not cached
	}
	modified := time.Time{}
	if info, err := os.Stat(p.path); err == nil {
		modified = info.ModTime()
	}
	return fmt.Sprintf("%s %s %s %s", p.path, p.version, modified.UTC().Format(time.RFC3339), boot)
}

type keptChoice struct {
	Key    string `json:"key"`
	Choice Choice `json:"choice"`
}

func loadChoice(path, key string) (Choice, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Choice{}, false
	}
	var k keptChoice
	if json.Unmarshal(text, &k) != nil || k.Key != key {
		return Choice{}, false
	}
	return k.Choice, true
}

func saveChoice(path, key string, c Choice) error {
	text, err := json.Marshal(keptChoice{key, c})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, text, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("caching the choice of accelerator: %w", err)
	}
	return nil
}

// Try runs firmware under the accelerator. It blocks until the firmware prints
// something, and then returns nil, until QEMU or the guest fails, or until ctx
// ends.
func (l *Local) Try(ctx context.Context, arch machine.Architecture, a machine.Accelerator) error {
	p, err := findProgram(ctx, arch)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(l.options.RuntimeDir, "try")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	u, err := firmware.Find(l.firmwareDirs(p), string(arch))
	if err != nil {
		return err
	}
	// There is no variable store: the firmware's variables are discarded.
	m := machine.Machine{
		ID: uuid.NewString(), Name: "try", Architecture: arch, CPUs: 1, MemoryMiB: 512, Accelerator: a,
		Firmware: machine.Firmware{Code: u.Code.Path, CodeFormat: u.Code.Format}, Sandbox: p.sandbox,
	}
	m.Paths = machine.Paths{
		Log: filepath.Join(dir, "log"), SerialLog: filepath.Join(dir, "serial.log"),
		QMP: filepath.Join(dir, "q"), Serial: filepath.Join(dir, "s"), VNC: filepath.Join(dir, "v"),
	}
	args, err := Args(m)
	if err != nil {
		return err
	}
	if err := touch(m.Paths.SerialLog); err != nil {
		return err
	}
	confine, err := l.confine(m, p)
	if err != nil {
		return err
	}
	started, err := process.Start(process.Command{Path: p.path, Args: args, Env: environment(), Log: m.Paths.Log, Confine: confine})
	if err != nil {
		return err
	}
	defer func() {
		_ = process.Signal(started, syscall.SIGKILL)
		_, _ = process.Wait(context.Background(), started)
	}()
	return tried(ctx, m, started)
}

// tried waits until the started machine has succeeded or failed.
func tried(ctx context.Context, m machine.Machine, started process.Identity) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	talk := trial{machine: m}
	defer talk.close()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the firmware's first output: %w", ctx.Err())
		case <-tick.C:
		}
		if hostfs.FileSize(m.Paths.SerialLog) > 0 {
			return nil
		}
		if !process.Alive(started) {
			return fmt.Errorf("QEMU exited: %s", process.Tail(m.Paths.Log, 0, maxOutput))
		}
		if talk.runState(ctx) == "internal-error" {
			return fmt.Errorf("internal-error: %s", firstOf(process.Tail(m.Paths.Log, 0, maxOutput)))
		}
	}
}

// trial holds the QMP connection to a machine that Try has started.
type trial struct {
	machine machine.Machine
	client  *qmp.Client
}

// runState returns the machine's run state, or "" while QEMU does not answer. It
// resumes the guest once connected.
func (t *trial) runState(ctx context.Context) string {
	if t.client == nil {
		client, err := qmp.Dial(ctx, t.machine.Paths.QMP)
		if err != nil {
			return ""
		}
		if err := client.Commands(ctx).Cont(); err != nil {
			client.Close()
			return ""
		}
		t.client = client
	}
	runState, err := queryStatus(ctx, t.client)
	if err != nil {
		return ""
	}
	return runState
}

func (t *trial) close() {
	if t.client != nil {
		t.client.Close()
	}
}

// firstOf returns the first line of output.
func firstOf(output string) string {
	line, _, _ := strings.Cut(output, "\n")
	return line
}
