// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/landlock"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// TestConfined asks a running QEMU, as a guest that has broken out of it would, for files
// and connections that are not its machine's.
func TestConfined(t *testing.T) {
	for _, arch := range []machine.Architecture{machine.X8664, machine.AArch64} {
		t.Run(string(arch), func(t *testing.T) { confined(t, arch) })
	}
}

func confined(t *testing.T, arch machine.Architecture) {
	o := options(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(arch)
	m.Disks = []machine.Disk{{ID: "disk0", Path: filepath.Join(o.DataDir, "machines", m.ID, "disk0.raw"), Format: "raw"}}
	m.NICs = m.NICs[:1]
	m.NICs[0].Backend = machine.Backend{User: &machine.User{Restrict: true}}
	other := filepath.Join(o.DataDir, "machines", "other", "disk0.raw")
	for _, path := range []string{m.Disks[0].Path, other} {
		writeFile(t, path, strings.Repeat("\x00", 1<<20))
	}
	s := start(t, l, m)

	// What the runner may plug in later: a server on a socket of the machine's directory.
	socket := filepath.Join(s.Paths.Sockets, "media.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connect := map[string]any{"id": "media", "backend": map[string]any{"type": "socket", "data": map[string]any{
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}, "server": false,
	}}}
	if err := l.QMP(within(t), m.ID, "chardev-add", connect, nil); err != nil {
		t.Errorf("connecting to a socket of the machine's directory: got error %v, want none", err)
	}

	open := func(node, path string) error {
		return l.QMP(within(t), m.ID, "blockdev-add",
			map[string]any{"driver": "file", "node-name": node, "filename": path, "read-only": true}, nil)
	}
	write := func(id, path string) error {
		return l.QMP(within(t), m.ID, "chardev-add",
			map[string]any{"id": id, "backend": map[string]any{"type": "file", "data": map[string]any{"out": path}}}, nil)
	}
	for name, err := range map[string]error{
		"another machine's disk":      open("disk", other),
		"a file of the system's user": open("passwd", "/etc/passwd"),
		"the machine's record":        write("record", s.Paths.Record),
		"a new file":                  write("new", filepath.Join(o.DataDir, "new")),
	} {
		denied := err != nil && strings.Contains(err.Error(), "Permission denied")
		if want := landlock.Version() > 0; denied != want {
			t.Errorf("%s: got error %v, want it denied: %t", name, err, want)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFakeProgramIsConfined checks that what does not need a guest works confined: forwards
// and consoles.
func TestFakeProgramIsConfined(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	l := open(t, o)
	m := bare(machine.X8664)
	m.NICs[0].Backend.User.Forwards = []machine.Forward{{GuestPort: 22}}
	s := start(t, l, m)
	console, err := net.DialTimeout("unix", s.Paths.Serial, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	awaitSerial(t, l, m.ID)
}

// TestBases checks on which files a disk may be based.
func TestBases(t *testing.T) {
	o := options(t)
	l := open(t, o)
	tool, err := qemuimg.New(qemuimg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := machine.Machine{ID: "m", Paths: machine.Paths{Dir: filepath.Join(o.DataDir, "machines", "m")}}
	raw := filepath.Join(m.Paths.Dir, "disk0.raw")
	writeFile(t, raw, "raw")
	overlay := func(base string) string {
		t.Helper()
		writeFile(t, base, strings.Repeat("\x00", 1<<20))
		path := filepath.Join(m.Paths.Dir, filepath.Base(filepath.Dir(base))+".qcow2")
		if err := tool.CreateOverlay(t.Context(), qemuimg.Overlay{Base: base, BaseFormat: "raw", Path: path, Size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	check := func(l *qemu.Local, disk string, want []string, refused bool) {
		t.Helper()
		got, err := l.Bases(m, disk)
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != refused {
			t.Errorf("%s: got error %v, bases (-want +got):\n%s", disk, err, diff)
		}
	}
	artifact := filepath.Join(o.DataDir, "artifacts", "blobs", "image")
	check(l, overlay(artifact), []string{artifact}, false)
	check(l, overlay(filepath.Join(o.DataDir, "machines", "other", "disk0.raw")), nil, true)
	check(l, overlay(filepath.Join(t.TempDir(), "secret")), nil, true)
	check(l, raw, nil, false)
	check(l, filepath.Join(m.Paths.Dir, "missing"), nil, false)
}
