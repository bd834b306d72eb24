// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/server"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// listen binds the switch's end of a NIC.
func listen(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// frame reads a frame.
func frame(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<16)
	n, err := c.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// ask sends a command to the guest of a machine and returns its answer.
func ask(t *testing.T, c *net.UnixConn, d *machine.Dgram, command string) string {
	t.Helper()
	order(t, d.Local, command)
	return frame(t, c)
}

// TestFrames connects a machine to a switch that appears late, is replaced and does
// not read.
func TestFrames(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	start(t, r, m)
	d := m.NICs[1].Backend.Dgram
	if info, err := os.Stat(d.Local); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: got mode %v, error %v; want 600", info.Mode(), err)
	}
	order(t, d.Local, "echo lost, because there is no switch")
	sw := listen(t, d.Remote)
	// The missing switch is tried again after a moment.
	for answered := false; !answered; {
		order(t, d.Local, "echo first")
		_ = sw.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		buffer := make([]byte, 100)
		n, err := sw.Read(buffer)
		answered = err == nil && string(buffer[:n]) == "first"
	}
	big := strings.Repeat("x", 9000)
	got := ask(t, sw, d, "echo "+big)
	for got == "first" { // the answers to repeated requests
		got = frame(t, sw)
	}
	if got != big {
		t.Errorf("got a frame of %d bytes, want %d", len(got), len(big))
	}
	if err := errors.Join(sw.Close(), os.Remove(d.Remote)); err != nil {
		t.Fatal(err)
	}
	sw = listen(t, d.Remote)
	if got := ask(t, sw, d, "echo second"); got != "second" {
		t.Errorf("after the switch was replaced: got frame %q, want %q", got, "second")
	}
	// A switch that does not read must not stop the guest.
	for range 50 {
		order(t, d.Local, "echo unread")
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if _, err := os.Lstat(d.Local); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a stopped machine: got error %v, want it removed", err)
	}
}

func TestSerialConsole(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	s := start(t, r, m)
	awaitLog(t, s, "power-on 1 boots net0\n")
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", s.Paths.Serial)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	// printed makes the guest print a character until the client gets it. What is
	// printed before a client is served is in the log alone.
	printed := func(c net.Conn, char byte) {
		t.Helper()
		for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
			order(t, m.NICs[0].Backend.Dgram.Local, "print "+string(char))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			got := make([]byte, 100)
			if n, err := c.Read(got); err == nil && bytes.IndexByte(got[:n], char) >= 0 {
				return
			}
		}
		t.Fatalf("the client did not get %q", char)
	}
	first := dial()
	printed(first, '.')
	if _, err := first.Write([]byte("input that no guest reads\r")); err != nil {
		t.Error(err)
	}
	second := dial() // waits until the first one is closed
	printed(first, '!')
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	printed(second, '?')
	log, err := os.ReadFile(s.Paths.SerialLog)
	if err != nil || !strings.HasPrefix(string(log), "power-on 1 boots net0\n.") {
		t.Errorf("got serial log %q, error %v; want the guest's output", log, err)
	}
	if info, err := os.Stat(s.Paths.SerialLog); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("serial log: got mode %v, error %v; want 600", info.Mode(), err)
	}
	if s.Paths.VNC != "" || s.Paths.QMP != "" {
		t.Errorf("got paths %+v, want no screen and no QMP", s.Paths)
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	if _, err := os.Lstat(s.Paths.Serial); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the console of a stopped machine: got error %v, want it removed", err)
	}
	// The log is appended to, and the offset is where the power-on begins.
	again := start(t, r, m)
	if again.SerialOffset < int64(len(log)) {
		t.Errorf("got serial offset %d after a log of %d bytes, want at least that", again.SerialOffset, len(log))
	}
	awaitLog(t, again, "power-on 2 boots net0\n")
	order(t, m.NICs[0].Backend.Dgram.Local, "reset")
	await(t, r, m.ID, "the reset", func(s machine.State) bool { return s.Resets == 1 && s.SerialOffset > again.SerialOffset })
}

// TestDiskContent stores content on a disk, and replaces the disk as an installation
// does.
func TestDiskContent(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	dir := machine.NewSimulatedPaths(o.DataDir, o.RuntimeDir, m.ID).Dir
	disks := []targetdisk.Disk{{Path: m.Disks[0].Path, Size: 1 << 30}}
	prepare := func(id int64) {
		t.Helper()
		if _, err := targetdisk.Prepare(dir, targetdisk.Attempt{ID: id, Generation: 1, Number: id}, disks); err != nil {
			t.Fatal(err)
		}
	}
	prepare(1)
	start(t, r, m)
	d := m.NICs[0].Backend.Dgram
	sw := listen(t, d.Remote)
	for _, c := range []struct{ command, want string }{
		{"load", "blank"}, {"store one", "one"}, {"load", "content one"}, {"store two", "two"}, {"load", "content two"},
	} {
		if got := ask(t, sw, d, c.command); got != c.want {
			t.Errorf("%s: got %q, want %q", c.command, got, c.want)
		}
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	start(t, r, m)
	if got := ask(t, sw, d, "load"); got != "content two" {
		t.Errorf("after a restart: got %q, want %q", got, "content two")
	}
	stop(t, r, m.ID, machine.StopOptions{}, machine.StoppedByQuit)
	prepare(2)
	start(t, r, m)
	if got := ask(t, sw, d, "load"); got != "blank" {
		t.Errorf("after the disk was replaced: got %q, want %q", got, "blank")
	}
}

// TestPowerButtonIsObeyed and what is recorded of it.
func TestPowerButtonIsObeyed(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	start(t, r, m)
	d := m.NICs[0].Backend.Dgram
	sw := listen(t, d.Remote)
	order(t, d.Local, "obey")
	if got := ask(t, sw, d, "echo obeys"); got != "obeys" { // after it
		t.Errorf("got %q, want %q", got, "obeys")
	}
	stop(t, r, m.ID, machine.StopOptions{ACPITimeout: limit}, machine.StoppedByGuest)
	if s := observe(t, r, m.ID); s.Exit == nil || s.Exit.Reason != machine.ExitGuestShutdown || !s.Exit.Requested {
		t.Errorf("got exit %+v, want a requested shutdown", s.Exit)
	}
	awaitLog(t, start(t, r, m), "power-on 2 boots net0")
}

// TestSlowEndSparesOthers stops a machine that ends later than the Stop allows: the
// simulator answers, and is not killed with its other machines.
func TestSlowEndSparesOthers(t *testing.T) {
	o := options(t)
	r, m, other := open(t, o), described(t, o), described(t, o)
	pid := start(t, r, m).PID
	start(t, r, other)
	d := m.NICs[0].Backend.Dgram
	c := listen(t, d.Remote)
	if got := ask(t, c, d, "linger"); got != "lingers" {
		t.Fatalf("got %q, want the guest to linger", got)
	}
	stop(t, r, m.ID, machine.StopOptions{QuitTimeout: time.Millisecond}, machine.StoppedByQuit)
	if s := observe(t, r, other.ID); !running(s) || s.PID != pid {
		t.Errorf("got state %+v of the other machine, want it running in process %d", s, pid)
	}
}

// TestGuestPanics covers bugs in a guest: only its machine ends, with the cause in its
// exit and on its serial console.
func TestGuestPanics(t *testing.T) {
	o := options(t)
	r, m, other := open(t, o), described(t, o), described(t, o)
	before := start(t, r, other)
	d := m.NICs[0].Backend.Dgram
	for name, fail := range map[string]func(t *testing.T, c *net.UnixConn){
		"receiving a frame":    func(t *testing.T, _ *net.UnixConn) { order(t, d.Local, "panic") },
		"in another goroutine": func(t *testing.T, _ *net.UnixConn) { order(t, d.Local, "panic later") },
		"carrying out a request": func(t *testing.T, c *net.UnixConn) {
			if got := ask(t, c, d, "fragile"); got != "fragile" {
				t.Fatalf("got %q, want the guest to have a bug", got)
			}
			if err := r.Reset(within(t), m.ID); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, r, m)
			c := listen(t, d.Remote)
			t.Cleanup(func() { _ = os.Remove(d.Remote) })
			fail(t, c)
			s := await(t, r, m.ID, "its end", stopped)
			if s.Exit.Reason != machine.ExitFailed || !strings.Contains(s.Exit.Output, bug) {
				t.Errorf("got exit %+v, want a failure with the bug", s.Exit)
			}
			awaitLog(t, s, "pxelab: the simulator has a bug, which ends this machine: "+bug)
			if err := os.Remove(s.Paths.SerialLog); err != nil {
				t.Error(err)
			}
			if after := observe(t, r, other.ID); after.Phase != machine.PhaseRunning || after.PID != before.PID {
				t.Errorf("the other machine: got state %+v, want it running", after)
			}
		})
	}
}

func TestTwoSimulators(t *testing.T) {
	o := options(t)
	r, m := open(t, o), described(t, o)
	start(t, r, m)
	err := server.Run(within(t), server.Options{DataDir: o.DataDir, RuntimeDir: o.RuntimeDir, NewGuest: newFakeGuest, Log: stderrLog()})
	if !errors.Is(err, server.ErrRuns) {
		t.Errorf("a second simulator: got error %v, want %v", err, server.ErrRuns)
	}
	if s := observe(t, r, m.ID); s.Phase != machine.PhaseRunning {
		t.Errorf("got state %+v, want it running", s)
	}
}

// descriptors returns how many descriptors this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	dir := "/proc/self/fd"
	if _, err := os.Stat(dir); err != nil {
		dir = "/dev/fd"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestManyMachines starts and stops 200 machines in a simulator in this process, and
// compares the goroutines and descriptors before and after.
func TestManyMachines(t *testing.T) {
	const count = 200
	o := options(t)
	o.Log = stderrLog().V(1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Options{DataDir: o.DataDir, RuntimeDir: o.RuntimeDir, NewGuest: newFakeGuest, Log: o.Log})
	}()
	r := open(t, o)
	all := make([]machine.Machine, count)
	for i := range all {
		all[i] = described(t, o)
		all[i].Name = fmt.Sprint("machine ", i)
	}
	start(t, r, all[0])
	stop(t, r, all[0].ID, machine.StopOptions{}, machine.StoppedByQuit)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	before := memory.HeapInuse + memory.StackInuse

	for _, m := range all {
		if err := r.Start(within(t), m); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range all {
		await(t, r, m.ID, "the start", running)
	}
	runtime.GC()
	runtime.ReadMemStats(&memory)
	t.Logf("%d machines: %d bytes of heap and stacks, %.1f goroutines and %.1f descriptors each", count,
		(memory.HeapInuse+memory.StackInuse-before)/count,
		float64(runtime.NumGoroutine()-goroutines)/count, float64(descriptors(t)-files)/count)
	states, err := r.List(within(t))
	if err != nil || len(states) != count {
		t.Errorf("got %d machines, error %v; want %d", len(states), err, count)
	}
	if err := machine.StopAll(within(t), r, machine.StopOptions{}, nil); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		g, f := runtime.NumGoroutine(), descriptors(t)
		if g <= goroutines && f <= files {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the stop: got %d goroutines and %d descriptors, want %d and %d as before", g, f, goroutines, files)
		}
	}
	for _, m := range all {
		if err := r.Remove(within(t), m.ID); err != nil {
			t.Error(err)
		}
	}
	if got := r.Known(); got != 0 {
		t.Errorf("got %d known machines, want none", got)
	}
	r.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(o.RuntimeDir, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("got the sockets %q, error %v; want none", left, err)
	}
}
