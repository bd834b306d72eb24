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

	"github.com/pxelab/pxelab/internal/firmware"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qmp"
)

// Choice is an accelerator and, for TCG, why it is no better one.
type Choice struct {
	Accelerator Accelerator `json:"accelerator"`
	// Reason is a sentence for people; empty when the computer's own
	// virtualization is used.
	Reason string `json:"reason,omitempty"`
}

// tryTimeout is how long firmware may take to its first output under an
// accelerator that works. It takes a second or two on an idle computer, and an
// accelerator that fails says so much sooner: this is for one that hangs.
const tryTimeout = time.Minute

// Accelerator is the best accelerator that works here for the architecture. A
// device that opens proves nothing (this computer may be a virtual machine whose
// host emulates too little), so the first call runs UEFI firmware for a moment,
// and counts it as working when the firmware has printed something. The answer
// is kept in the data directory until the computer, its kernel or QEMU changes.
func (l *Local) Accelerator(ctx context.Context, arch Architecture) (Choice, error) {
	if l.options.Accelerator != "" {
		return Choice{Accelerator: l.options.Accelerator}, nil
	}
	p, err := l.program(ctx, arch)
	if err != nil {
		return Choice{}, err
	}
	l.programs.Lock()
	defer l.programs.Unlock()
	if c, ok := l.accelerators[arch]; ok {
		return c, nil
	}
	c, err := l.choose(ctx, arch, p)
	if err != nil {
		return Choice{}, err
	}
	l.accelerators[arch] = c
	l.log.Info("Chose an accelerator", "architecture", arch, "accelerator", c.Accelerator, "reason", c.Reason)
	return c, nil
}

// choose tells by the kept answer or by trying.
func (l *Local) choose(ctx context.Context, arch Architecture, p program) (Choice, error) {
	candidate, why := candidate(arch)
	if candidate == TCG {
		return Choice{TCG, why}, nil
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
		c = Choice{TCG, fmt.Sprintf("%s does not run a guest on this computer, so %s machines are emulated, which is slow: %v", candidate, arch, err)}
	}
	if trying.Err() != nil {
		return c, nil // A busy computer may do better next time.
	}
	return c, saveChoice(kept, key, c)
}

// candidate is the accelerator that this computer should have, or TCG and why.
func candidate(arch Architecture) (Accelerator, string) {
	host := map[string]Architecture{"amd64": X8664, "arm64": AArch64}[runtime.GOARCH]
	if host != arch {
		return TCG, fmt.Sprintf("%s machines are emulated on this %s computer", arch, runtime.GOARCH)
	}
	switch runtime.GOOS {
	case "darwin":
		return HVF, ""
	case "linux":
		f, err := os.OpenFile("/dev/kvm", os.O_RDWR|syscall.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, os.ErrPermission):
			return TCG, "KVM needs permission to open /dev/kvm (usually by joining the group kvm), so machines are emulated, which is slow"
		case err != nil:
			return TCG, fmt.Sprintf("no KVM here (%v), so machines are emulated, which is slow", err)
		}
		f.Close()
		return KVM, ""
	default:
		return TCG, "no accelerator is known for " + runtime.GOOS
	}
}

// hostKey changes when an answer may no longer hold.
func hostKey(p program) string {
	boot, err := process.BootID()
	if err != nil {
		boot = time.Now().String() // never equal: ask again
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
		return fmt.Errorf("keeping the choice of accelerator: %w", err)
	}
	return nil
}

// Try runs firmware under the accelerator until it has printed something (nil),
// has failed, or ctx ends.
func (l *Local) Try(ctx context.Context, arch Architecture, a Accelerator) error {
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
	// Without a variable store: what the firmware would keep is lost, as it should.
	m := Machine{
		ID: uuid.NewString(), Name: "try", Architecture: arch, CPUs: 1, MemoryMiB: 512, Accelerator: a,
		Firmware: Firmware{Code: u.Code.Path, CodeFormat: u.Code.Format}, Sandbox: p.sandbox,
	}
	m.Paths = Paths{
		Log: filepath.Join(dir, "log"), SerialLog: filepath.Join(dir, "serial.log"),
		QMP: filepath.Join(dir, "q"), Serial: filepath.Join(dir, "s"), VNC: filepath.Join(dir, "v"),
	}
	args, err := Args(m)
	if err != nil {
		return err
	}
	started, err := process.Start(process.Command{Path: p.path, Args: args, Env: environment(), Log: m.Paths.Log})
	if err != nil {
		return err
	}
	defer func() {
		_ = process.Signal(started, syscall.SIGKILL)
		_, _ = process.Wait(context.Background(), started)
	}()
	return tried(ctx, m, started)
}

// tried waits for the verdict on a machine that was started.
func tried(ctx context.Context, m Machine, started process.Identity) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	talk := trial{machine: m}
	defer talk.close()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("its firmware has printed nothing: %w", ctx.Err())
		case <-tick.C:
		}
		if sizeOf(m.Paths.SerialLog) > 0 {
			return nil
		}
		if !process.Alive(started) {
			return fmt.Errorf("QEMU ended: %s", process.Tail(m.Paths.Log, 0, maxOutput))
		}
		if talk.runState(ctx) == "internal-error" {
			return fmt.Errorf("internal-error: %s", firstOf(process.Tail(m.Paths.Log, 0, maxOutput)))
		}
	}
}

// trial talks to a machine that is tried out.
type trial struct {
	machine Machine
	client  *qmp.Client
}

// runState is the machine's run state, or "" while it does not answer. The guest
// is let go at the first answer.
func (t *trial) runState(ctx context.Context) string {
	if t.client == nil {
		client, err := qmp.Dial(ctx, t.machine.Paths.QMP)
		if err != nil {
			return ""
		}
		if err := client.Execute(ctx, "cont", nil, nil); err != nil {
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

// firstOf is the first line that says something.
func firstOf(output string) string {
	line, _, _ := strings.Cut(output, "\n")
	return line
}
