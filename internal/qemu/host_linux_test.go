// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"bytes"
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

	"github.com/pxelab/pxelab/internal/qemu"
)

// listening are the IPv4 addresses at which a process takes TCP connections,
// and how many of IPv6 there are.
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
			slices.Reverse(raw) // in the host's order, which is little-endian here
			addr, _ := netip.AddrFromSlice(raw)
			v4 = append(v4, netip.AddrPortFrom(addr, uint16(n)))
		}
	}
	return v4, v6
}

// TestListensOnLoopbackOnly looks for every door of a machine on the network.
func TestListensOnLoopbackOnly(t *testing.T) {
	for _, arch := range []qemu.Architecture{qemu.X8664, qemu.AArch64} {
		o := options(t)
		stopAll(t, o)
		l := open(t, o)
		m := bare(arch)
		m.NICs[0].Backend.User.Forwards = []qemu.Forward{{GuestPort: 22}, {GuestPort: 8443}}
		s := start(t, l, m)
		v4, v6 := listening(t, s.PID)
		want := map[uint16]bool{}
		for _, f := range s.Forwards["net0"] {
			want[uint16(f.HostPort)] = true
		}
		for _, a := range v4 {
			if a.Addr() != netip.MustParseAddr("127.0.0.1") || !want[a.Port()] {
				t.Errorf("%s listens on %s", arch, a)
			}
			delete(want, a.Port())
		}
		if len(want) > 0 || v6 > 0 {
			t.Errorf("%s: forwards %v are not there; %d IPv6 sockets listen", arch, want, v6)
		}
	}
}

// sandboxed reports whether the process is confined by seccomp filters.
func sandboxed(t *testing.T, pid int) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(status, []byte("\nSeccomp:\t2\n"))
}

// TestSandboxWithTap runs a machine on a tap, which QEMU opens by itself, with
// and without offload. The sandbox must not be in the way.
func TestSandboxWithTap(t *testing.T) {
	if !inNamespaces(t, unix.CLONE_NEWNS|unix.CLONE_NEWNET) {
		return
	}
	for i, offload := range []bool{true, false} {
		name := fmt.Sprintf("tap%d", i)
		makeTap(t, name)
		o := options(t)
		stopAll(t, o)
		l := open(t, o)
		m := bare(qemu.X8664)
		m.NICs = m.NICs[:1]
		m.NICs[0].Backend = qemu.Backend{Tap: &qemu.Tap{Interface: name, Offload: offload}}
		s := start(t, l, m)
		if s.Phase != qemu.PhaseRunning || !sandboxed(t, s.PID) {
			t.Errorf("offload %v: phase %s, sandboxed %v", offload, s.Phase, sandboxed(t, s.PID))
		}
	}
}

// makeTap makes a tap that stays.
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
