// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

// shortLived is the environment variable that makes the test binary a manager that
// starts one machine and is killed.
const shortLived = "PXELAB_TEST_SHORT_LIVED"

// managerJob is what a short-lived manager does.
type managerJob struct {
	Options managerOptions
	Machine machine.Machine
}

type managerOptions struct {
	DataDir, RuntimeDir string
	FirmwareDirs        []string
	Readable            []string
}

func (o managerOptions) local() qemu.Options {
	return qemu.Options{
		DataDir: o.DataDir, RuntimeDir: o.RuntimeDir, FirmwareDirs: o.FirmwareDirs, Readable: o.Readable, Accelerator: machine.TCG, Log: logr.Discard(),
	}
}

// runShortLived runs a manager until it is killed, if this process is to be one.
func runShortLived() {
	text := os.Getenv(shortLived)
	if text == "" {
		return
	}
	var job managerJob
	err := json.Unmarshal([]byte(text), &job)
	var l *qemu.Local
	if err == nil {
		l, err = qemu.New(job.Options.local())
	}
	if err == nil {
		err = l.Start(context.Background(), job.Machine)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// TestKilledDuringStart kills managers between the start of QEMU and the guest's first
// instruction. The next manager, which calls Start only for machines that do not run,
// brings every machine up.
func TestKilledDuringStart(t *testing.T) {
	p, o := fakeProgram(t)
	p.Set(t, "", qemutest.Faults{Delay: 10 * time.Millisecond})
	// The steps of a start together take about as long as the longest wait.
	killDuringStarts(t, o, 50, 100*time.Millisecond)
}

// TestKilledDuringStartOfQEMU is TestKilledDuringStart with QEMU itself. Its guest is
// the firmware, which finds nothing to boot from.
func TestKilledDuringStartOfQEMU(t *testing.T) {
	killDuringStarts(t, options(t), 5, 150*time.Millisecond)
}

// killDuringStarts kills managers while they start a machine, each at most longest after
// it has recorded the machine, and lets the next one bring the machine up.
func killDuringStarts(t *testing.T, o qemu.Options, kills int, longest time.Duration) {
	t.Helper()
	stopAll(t, o)
	job := managerJob{Options: managerOptions{DataDir: o.DataDir, RuntimeDir: o.RuntimeDir, FirmwareDirs: o.FirmwareDirs, Readable: o.Readable}}
	cutOff := map[string]int{}
	for range kills {
		job.Machine = bare(machine.X8664)
		killManager(t, job, rand.N(longest))

		l := open(t, o)
		s := observe(t, l, job.Machine.ID)
		cutOff[fmt.Sprintf("%s with process: %t", s.Phase, s.PID != 0)]++
		if !s.Phase.Alive() {
			if err := l.Start(within(t), job.Machine); err != nil {
				t.Fatal(err)
			}
		}
		got := awaitState(t, l, job.Machine.ID, "the start", func(s machine.State) bool { return s.Phase == machine.PhaseRunning })
		if s.PID != 0 && got.PID != s.PID {
			t.Errorf("got process %d, want %d, which the killed manager started", got.PID, s.PID)
		}
		if _, err := l.Stop(within(t), job.Machine.ID, machine.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	t.Logf("states that the next manager found: %v", cutOff)
}

// killManager runs a manager that starts a machine, and kills it some time after it
// has written the machine's record, which it does before it starts QEMU.
func killManager(t *testing.T, job managerJob, after time.Duration) {
	t.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), shortLived+"="+string(text))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	record := machine.NewPaths(job.Options.DataDir, job.Options.RuntimeDir, job.Machine.ID).Record
	for began := time.Now(); time.Since(began) < limit; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(record); err == nil {
			break
		}
	}
	time.Sleep(after)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

// TestPrelaunchIsContinued adopts a machine whose guest was never let run, and one
// that an administrator has paused, which stays paused until it is started.
func TestPrelaunchIsContinued(t *testing.T) {
	p, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	held, paused := bare(machine.X8664), bare(machine.X8664)
	p.Set(t, held.ID, qemutest.Faults{Hang: []string{"cont"}})
	if err := l.Start(within(t), held); err != nil {
		t.Fatal(err)
	}
	start(t, l, paused)
	if err := l.QMP(within(t), paused.ID, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	awaitState(t, l, paused.ID, "the pause", func(s machine.State) bool { return s.Phase == machine.PhasePaused && s.RunState == "paused" })
	awaitState(t, l, held.ID, "a process", func(s machine.State) bool { return s.PID != 0 })
	l.Close()
	p.Set(t, held.ID, qemutest.Faults{})

	l = open(t, o)
	awaitState(t, l, held.ID, "the guest's first instruction", func(s machine.State) bool { return s.Phase == machine.PhaseRunning })
	if s := observe(t, l, paused.ID); s.Phase != machine.PhasePaused {
		t.Errorf("got state %+v of a machine that an administrator has paused, want phase %s", s, machine.PhasePaused)
	}
	if err := l.Start(within(t), paused); err != nil {
		t.Fatal(err)
	}
	awaitState(t, l, paused.ID, "the resumption", func(s machine.State) bool { return s.Phase == machine.PhaseRunning })
}
