// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu"
)

// startAlone starts a machine of the fake program that forwards ports, and closes the
// Local.
func startAlone(t *testing.T, o qemu.Options) (machine.Machine, machine.State) {
	t.Helper()
	l := open(t, o)
	m := bare(machine.X8664)
	m.NICs[0].Backend.User.Forwards = []machine.Forward{{GuestPort: 6641}, {GuestPort: 22}}
	s := start(t, l, m)
	l.Close()
	return m, s
}

// A record that cannot be read, as by a host without free descriptors, is read later. A
// directory in its place stands for that.
func TestUnreadableRecordIsReadLater(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	m, before := startAlone(t, o)
	path := before.Paths.Record
	if err := errors.Join(os.Rename(path, path+".kept"), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	l := open(t, o)
	s := observe(t, l, m.ID)
	if s.Phase != machine.PhaseUnresponsive || !strings.Contains(s.Problem, "it is not known yet as which process the machine runs") {
		t.Errorf("got state %+v, want phase %s with the problem", s, machine.PhaseUnresponsive)
	}
	if all, err := l.List(within(t)); err != nil || len(all) != 1 {
		t.Errorf("List: got %+v, %v; want the machine", all, err)
	}
	_, stopped := l.Stop(within(t), m.ID, machine.StopOptions{})
	for name, err := range map[string]error{"Start": l.Start(within(t), m), "Stop": stopped, "Remove": l.Remove(within(t), m.ID)} {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one that names the record", name, err)
		}
	}
	if err := errors.Join(os.Remove(path), os.Rename(path+".kept", path)); err != nil {
		t.Fatal(err)
	}
	after := awaitState(t, l, m.ID, "the record", func(s machine.State) bool { return s.Phase == machine.PhaseRunning })
	if after.PID != before.PID || after.Digest != before.Digest || after.Problem != "" {
		t.Errorf("got state %+v, want that of process %d", after, before.PID)
	}
	if _, err := os.Stat(path + ".unusable"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record that was set aside: got %v, want none", err)
	}
}

// A process whose record is lost is adopted when the next Local opens.
func TestProcessWithoutRecordIsAdopted(t *testing.T) {
	for name, lose := range map[string]func(p machine.Paths) error{
		"record deleted": func(p machine.Paths) error { return os.Remove(p.Record) },
		"record damaged": func(p machine.Paths) error {
			return errors.Join(os.WriteFile(p.Record, []byte(`{"version": 1, "mach`), 0o600), os.Chmod(p.Record, 0o644))
		},
		"record and log deleted": func(p machine.Paths) error {
			return errors.Join(os.Remove(p.Record), os.Remove(p.Log))
		},
		"directory deleted": func(p machine.Paths) error { return os.RemoveAll(p.Dir) },
	} {
		t.Run(name, func(t *testing.T) {
			_, o := fakeProgram(t)
			stopAll(t, o)
			m, before := startAlone(t, o)
			if err := lose(before.Paths); err != nil {
				t.Fatal(err)
			}
			// The directory of sockets may be used by another lab as well.
			other := o
			other.DataDir = t.TempDir()
			if all, err := open(t, other).List(within(t)); err != nil || len(all) > 0 {
				t.Errorf("another data directory: got %+v, %v; want no machine", all, err)
			}
			l := open(t, o)
			after := awaitState(t, l, m.ID, "the process", func(s machine.State) bool { return s.Phase == machine.PhaseRunning })
			if after.PID != before.PID || after.Name != before.Name {
				t.Errorf("got process %d of %q, want %d of %q", after.PID, after.Name, before.PID, before.Name)
			}
			if diff := cmp.Diff(before.Forwards, after.Forwards); diff != "" {
				t.Errorf("forwards (-want +got):\n%s", diff)
			}
			if err := l.SetBootOrder(within(t), m.ID, []string{"net1"}); err != nil {
				t.Errorf("SetBootOrder: got error %v, want none", err)
			}
			if info, err := os.Stat(before.Paths.Record + ".unusable"); err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("record that was set aside: got mode %v, want 0600", info.Mode())
			}
			if _, err := l.Stop(within(t), m.ID, machine.StopOptions{}); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, before.PID)
			if err := l.Remove(within(t), m.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(before.Paths.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: got %v after Remove, want ErrNotExist", before.Paths.Dir, err)
			}
		})
	}
}

// A process that can no longer be reached is reported, and no other is started.
func TestProcessWithoutRecordAndSocketIsReported(t *testing.T) {
	_, o := fakeProgram(t)
	stopAll(t, o)
	m, before := startAlone(t, o)
	if err := errors.Join(os.Remove(before.Paths.Record), os.RemoveAll(before.Paths.Sockets)); err != nil {
		t.Fatal(err)
	}
	l := open(t, o)
	s := awaitState(t, l, m.ID, "the problem", func(s machine.State) bool { return strings.Contains(s.Problem, "nothing answers") })
	if s.Phase != machine.PhaseUnresponsive || !strings.Contains(s.Problem, m.ID) {
		t.Errorf("got state %+v, want phase %s with the process's ID", s, machine.PhaseUnresponsive)
	}
	if err := l.Start(within(t), m); err == nil {
		t.Error("Start: got no error, want one")
	}
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitState(t, l, m.ID, "the end of the process", func(s machine.State) bool { return s.Phase == machine.PhaseNotFound })
	if s := start(t, l, m); s.PID == before.PID {
		t.Errorf("after the end: got process %d, want another one", s.PID)
	}
}

func TestParseForwards(t *testing.T) {
	text := strings.ReplaceAll(`Hub -1 (uplink-net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   15       127.0.0.1 34567       10.0.2.15  8443     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  12               * 40124       10.0.2.15  8443     0     0
  UDP[236 sec]       14       10.0.2.15 41632         1.1.1.1    53     0     0
Hub 0 (other-net):
  TCP[HOST_FORWARD]  11       127.0.0.1 70000       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]
`, "\n", "\r\n")
	want := map[string][]machine.Forward{"uplink": {{HostPort: 40123, GuestPort: 22}, {HostPort: 40124, GuestPort: 8443}}}
	if diff := cmp.Diff(want, qemu.ParseForwards(text)); diff != "" {
		t.Errorf("forwards (-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "Hub", "TCP[HOST_FORWARD] 1 2 3 4 5 6"} {
		if got := qemu.ParseForwards(text); len(got) > 0 {
			t.Errorf("%q: got forwards %v, want none", text, got)
		}
	}
}

func FuzzParseForwards(f *testing.F) {
	f.Add("Hub -1 (uplink-net):\r\n  TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15    22     0     0\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		for nic, forwards := range qemu.ParseForwards(text) {
			for _, forward := range forwards {
				if nic == "" || forward.HostPort > 1<<16-1 || forward.GuestPort > 1<<16-1 {
					t.Errorf("got forward %+v of NIC %q, want a port of a NIC", forward, nic)
				}
			}
		}
	})
}
