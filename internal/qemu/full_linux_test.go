// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/namespacetest"
)

// smallDisk mounts a tmpfs of the given size in MiB; resize changes its size.
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

// writer returns a boot sector that overwrites its disk with the contents of the
// BIOS, 32 KiB per BIOS call.
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

// bios returns the path of SeaBIOS, which boots from a boot sector.
func bios(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/local/share/qemu/bios-256k.bin"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("SeaBIOS (bios-256k.bin) was not found: install seabios")
	return ""
}

// TestFullDisk fills the host's file system from a guest. QEMU stops the guest,
// Observe reports the stall, the next Local adopts the machine, and the guest
// resumes when there is enough space.
func TestFullDisk(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNS) {
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
	m := bare(machine.X8664)
	m.NICs = nil
	m.Firmware = machine.Firmware{Code: bios(t), CodeFormat: "raw"}
	m.Disks = []machine.Disk{{ID: "disk0", Path: disk, Format: "raw", BootIndex: 1}}
	start(t, l, m)

	full := func(s machine.State) bool { return s.Stall != nil && s.Stall.Missing() > 0 }
	s := awaitState(t, l, m.ID, "a stop by the full disk", full)
	if s.Phase != machine.PhasePaused || s.RunState != "io-error" || s.Stall.Disk != "disk0" || s.Stall.Path != disk || !s.Stall.NoSpace {
		t.Errorf("got state %+v, stall %+v; want a stall of disk0 without space", s, s.Stall)
	}
	if s.Stall.Free > 1<<20 || s.Stall.Growth < size-24<<20 || s.Stall.Growth > size || s.Stall.Needed <= s.Stall.Free {
		t.Errorf("got stall %+v, want sizes that match the file system", s.Stall)
	}
	for _, want := range []string{disk, "no space left", "free "} {
		if !strings.Contains(s.Stall.String(), want) {
			t.Errorf("got %q, want it to contain %q", s.Stall, want)
		}
	}

	// The next Local adopts the machine although it cannot write the record.
	pid := s.PID
	l.Close()
	l = open(t, o)
	if s = awaitState(t, l, m.ID, "the adopted machine's stall", full); s.PID != pid {
		t.Errorf("got process %d, want %d", s.PID, pid)
	}

	// Too little space does not resume the guest.
	resize("32")
	s = awaitState(t, l, m.ID, "a stall with more free space", func(s machine.State) bool { return s.Stall != nil && s.Stall.Free > 4<<20 })
	if s.Stall.Missing() == 0 {
		t.Errorf("got stall %+v, want missing space", s.Stall)
	}
	resize("256")
	s = awaitState(t, l, m.ID, "the guest to resume", func(s machine.State) bool {
		return s.Phase == machine.PhaseRunning && used(t, disk) > 40<<20
	})
	if s.PID != pid || s.Stall != nil {
		t.Errorf("got state %+v, stall %+v; want process %d without a stall", s, s.Stall, pid)
	}
}

// TestStopOnFullDisk stops a machine whose record cannot be written. Stopping must
// work because it can free space.
func TestStopOnFullDisk(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNS) {
		return
	}
	o := options(t)
	smallDisk(t, o.DataDir, "16")
	l := open(t, o)
	m := bare(machine.X8664)
	m.NICs = nil
	m.Firmware = machine.Firmware{Code: bios(t), CodeFormat: "raw"}
	s := start(t, l, m)
	ballast := filepath.Join(o.DataDir, "ballast")
	err := os.WriteFile(ballast, make([]byte, 32<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: got %v, want ENOSPC", err)
	}
	if _, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil {
		t.Error(err)
	}
	awaitEnd(t, s.PID)
	if s := observe(t, l, m.ID); s.Phase != machine.PhaseStopped {
		t.Errorf("got state %+v, want phase %s", s, machine.PhaseStopped)
	}
}

// used returns the bytes allocated to the file.
func used(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return hostfs.AllocatedBytes(info)
}
