// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/landlock"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/namespacetest"
)

// listening returns the IPv4 addresses on which the process listens for TCP
// connections, and the number of its IPv6 listeners.
func listening(t *testing.T, pid int) (v4 []netip.AddrPort, v6 int) {
	t.Helper()
	base := filepath.Join("/proc", strconv.Itoa(pid))
	fds, err := os.ReadDir(filepath.Join(base, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(base, "fd", fd.Name())); err == nil {
			own[target] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(base, "net", table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// proc_net_tcp: number, local, remote, state (0A: listening), ..., inode.
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !own["socket:["+f[9]+"]"] {
				continue
			}
			if table == "tcp6" {
				v6++
				continue
			}
			host, port, _ := strings.Cut(f[1], ":")
			raw, err := hex.DecodeString(host)
			n, err2 := strconv.ParseUint(port, 16, 16)
			if err != nil || err2 != nil || len(raw) != 4 {
				t.Fatalf("unexpected line %q", line)
			}
			slices.Reverse(raw) // in host byte order, which is little-endian here
			addr, _ := netip.AddrFromSlice(raw)
			v4 = append(v4, netip.AddrPortFrom(addr, uint16(n)))
		}
	}
	return v4, v6
}

// TestListensOnLoopbackOnly checks every TCP listener of a machine's process.
func TestListensOnLoopbackOnly(t *testing.T) {
	for _, arch := range []machine.Architecture{machine.X8664, machine.AArch64} {
		o := options(t)
		stopAll(t, o)
		l := open(t, o)
		m := bare(arch)
		m.NICs[0].Backend.User.Forwards = []machine.Forward{{GuestPort: 22}, {GuestPort: 8443}}
		s := start(t, l, m)
		v4, v6 := listening(t, s.PID)
		want := map[uint16]bool{}
		for _, f := range s.Forwards["net0"] {
			want[uint16(f.HostPort)] = true
		}
		for _, a := range v4 {
			if a.Addr() != netip.MustParseAddr("127.0.0.1") || !want[a.Port()] {
				t.Errorf("%s: got a listener on %s, want only forwards on 127.0.0.1", arch, a)
			}
			delete(want, a.Port())
		}
		if len(want) > 0 || v6 > 0 {
			t.Errorf("%s: got %d IPv6 listeners and none for forwards %v", arch, v6, want)
		}
	}
}

// sandboxed reports whether QEMU has confined itself by a seccomp filter, besides those
// that it was started with.
func sandboxed(t *testing.T, pid int) bool {
	t.Helper()
	given := filters(t, os.Getpid())
	if landlock.Version() >= 4 {
		given++
	}
	return filters(t, pid) > given
}

// filters returns the number of a process's seccomp filters, see proc_pid_status(5).
func filters(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "Seccomp_filters:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d: got no number of seccomp filters in %s", pid, status)
	return 0
}

// TestSandboxWithTap checks that QEMU can open a tap, with and without offload,
// when it is sandboxed.
func TestSandboxWithTap(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNS|unix.CLONE_NEWNET) {
		return
	}
	for i, offload := range []bool{true, false} {
		name := fmt.Sprintf("tap%d", i)
		makeTap(t, name)
		o := options(t)
		stopAll(t, o)
		l := open(t, o)
		m := bare(machine.X8664)
		m.NICs = m.NICs[:1]
		m.NICs[0].Backend = machine.Backend{Tap: &machine.Tap{Interface: name, Offload: offload}}
		s := start(t, l, m)
		if s.Phase != machine.PhaseRunning || !sandboxed(t, s.PID) {
			t.Errorf("offload %v: got phase %s, sandboxed %v; want %s, true", offload, s.Phase, sandboxed(t, s.PID), machine.PhaseRunning)
		}
	}
}

// makeTap creates a persistent tap.
func makeTap(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		t.Fatal(err)
	}
}
