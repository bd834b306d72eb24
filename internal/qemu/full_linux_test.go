// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/qemu"
)

// insideNamespace tells the test binary that it is in namespaces of its own.
const insideNamespace = "PXELAB_TEST_NAMESPACE"

// inNamespaces runs the calling test once more in namespaces of its own, where it
// may do what it likes with mounts and networks, and reports whether this is that
// run. Without rights a user namespace gives them.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(insideNamespace) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if errors.Is(err, syscall.EPERM) {
		t.Fatalf("this host lets no ordinary user make namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// smallDisk mounts a file system of so many MiB; resize gives it another size.
func smallDisk(t *testing.T, dir, mib string) (resize func(mib string)) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+mib+"m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return func(mib string) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "mode=0700,size="+mib+"m"); err != nil {
			t.Fatal(err)
		}
	}
}

// writer is a boot sector that writes its whole disk by BIOS calls, 32 KiB at a
// time, with what the BIOS itself holds.
func writer() []byte {
	sector := make([]byte, 512)
	copy(sector, []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x40, 0x7c, // again: mov si, 0x7c40
		0xb8, 0x00, 0x43, // mov ax, 0x4300 (extended write)
		0xcd, 0x13, // int 0x13
		0x72, 0xf6, // jc again
		0x66, 0x83, 0x06, 0x48, 0x7c, 0x40, // add dword [0x7c48], 64
		0xeb, 0xee, // jmp again
	})
	copy(sector[0x40:], []byte{
		0x10, 0, // size of this packet
		64, 0, // sectors
		0, 0, 0, 0xf0, // from f000:0000
		0, 8, 0, 0, 0, 0, 0, 0, // to sector 2048
	})
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// bios is one that boots by boot sector; QEMU's packages bring it.
func bios(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/local/share/qemu/bios-256k.bin"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("no SeaBIOS (bios-256k.bin) here: install seabios")
	return ""
}

func awaitState(t *testing.T, l *qemu.Local, id, what string, ok func(qemu.State) bool) qemu.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	news := l.Watch(ctx)
	tick := time.NewTicker(100 * time.Millisecond) // Stall counts bytes, which are no event
	defer tick.Stop()
	for {
		s := observe(t, l, id)
		if ok(s) {
			return s
		}
		select {
		case <-news:
		case <-tick.C:
		}
		if ctx.Err() != nil {
			t.Fatalf("never %s; last %+v, stall %+v", what, s, s.Stall)
		}
	}
}

// TestFullDisk has a guest fill the host's file system. It is stopped, says so,
// outlives the program that watches it, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	if !inNamespaces(t, unix.CLONE_NEWNS) {
		return
	}
	o := options(t)
	resize := smallDisk(t, o.DataDir, "24")
	stopAll(t, o)
	l := open(t, o)
	disk := filepath.Join(o.DataDir, "disk.raw")
	if err := os.WriteFile(disk, writer(), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if err := os.Truncate(disk, size); err != nil {
		t.Fatal(err)
	}
	m := bare(qemu.X8664)
	m.NICs = nil
	m.Firmware = qemu.Firmware{Code: bios(t), CodeFormat: "raw"}
	m.Disks = []qemu.Disk{{ID: "disk0", Path: disk, Format: "raw", BootIndex: 1}}
	start(t, l, m)

	full := func(s qemu.State) bool { return s.Stall != nil && s.Stall.Missing() > 0 }
	s := awaitState(t, l, m.ID, "stopped by the full disk", full)
	if s.Phase != qemu.PhasePaused || s.RunState != "io-error" || s.Stall.Disk != "disk0" || s.Stall.Path != disk || !s.Stall.NoSpace {
		t.Errorf("state %+v, stall %+v", s, s.Stall)
	}
	if s.Stall.Free > 1<<20 || s.Stall.Growth < size-24<<20 || s.Stall.Growth > size || s.Stall.Needed <= s.Stall.Free {
		t.Errorf("stall %+v", s.Stall)
	}
	for _, want := range []string{disk, "no space left", "free "} {
		if !strings.Contains(s.Stall.String(), want) {
			t.Errorf("%q lacks %q", s.Stall, want)
		}
	}

	// The next program finds the machine as it is. It cannot write down that it
	// does, and leaves it alone all the same.
	pid := s.PID
	closeLocal(t, l)
	l = open(t, o)
	if s = awaitState(t, l, m.ID, "found stopped", full); s.PID != pid {
		t.Errorf("process %d instead of %d", s.PID, pid)
	}

	// A little room is not enough, enough is.
	resize("32")
	s = awaitState(t, l, m.ID, "seen with a little room", func(s qemu.State) bool { return s.Stall != nil && s.Stall.Free > 4<<20 })
	if s.Stall.Missing() == 0 {
		t.Errorf("goes on with %+v", s.Stall)
	}
	resize("256")
	s = awaitState(t, l, m.ID, "going on", func(s qemu.State) bool { return s.Phase == qemu.PhaseRunning && used(t, disk) > 40<<20 })
	if s.PID != pid || s.Stall != nil {
		t.Errorf("state %+v, stall %+v", s, s.Stall)
	}
}

// TestStopOnFullDisk stops a machine whose record cannot be written: that is how
// a full disk gets room again.
func TestStopOnFullDisk(t *testing.T) {
	if !inNamespaces(t, unix.CLONE_NEWNS) {
		return
	}
	o := options(t)
	smallDisk(t, o.DataDir, "16")
	l := open(t, o)
	m := bare(qemu.X8664)
	m.NICs = nil
	m.Firmware = qemu.Firmware{Code: bios(t), CodeFormat: "raw"}
	s := start(t, l, m)
	ballast := filepath.Join(o.DataDir, "ballast")
	err := os.WriteFile(ballast, make([]byte, 32<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if _, err := l.Stop(within(t), m.ID, qemu.StopOptions{}); err != nil {
		t.Error(err)
	}
	awaitEnd(t, s.PID)
	if s := observe(t, l, m.ID); s.Phase != qemu.PhaseStopped {
		t.Errorf("state %+v", s)
	}
}

func used(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
