// SPDX-License-Identifier: Apache-2.0

package targetdisk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// retained creates the retained disks of a target with the UID a, whose third attempt
// installed it, and returns their adoption by a machine.
func retained(t *testing.T) Adoption {
	t.Helper()
	parent := t.TempDir()
	machine := filepath.Join(parent, "machines", "a")
	disk := Disk{Path: filepath.Join(machine, "disk0.raw"), Size: 4096}
	attempt := Attempt{ID: 3, Generation: 2, Number: 1}
	if _, err := Prepare(machine, attempt, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	if _, err := MarkInstalled(machine, attempt, Installed{At: time.Unix(1, 0), RootDisk: "disk0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := MarkPhonedHome(machine, attempt, System{Hostname: "a", HostKeys: []string{"key"}}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, filepath.Join(machine, "owner.json"), "a")
	dst := filepath.Join(parent, "retained", "a")
	if kept, err := Retain(machine, dst, []Disk{disk}, "owner.json"); err != nil || !kept {
		t.Fatalf("got %t, %v, want the disks to be retained", kept, err)
	}
	write(t, filepath.Join(dir(parent, "a"), "vars"), "of the former machine")
	return adoption(parent, "a", "b")
}

func dir(parent, uid string) string { return filepath.Join(parent, "retained", uid) }

// adoption is that of the retained disks of a target by the machine of another.
func adoption(parent, from, to string) Adoption {
	machine := filepath.Join(parent, "machines", to)
	return Adoption{
		From: dir(parent, from), Dir: machine, Disks: []Disk{{Path: filepath.Join(machine, "disk0.raw"), Size: 4096}},
		Retained: from, MAC: "52:54:00:00:00:01", Address: "10.88.0.10", Keep: []string{"owner.json"},
	}
}

func TestAdopt(t *testing.T) {
	a := retained(t)
	record, err := Adopt(a)
	if err != nil {
		t.Fatal(err)
	}
	want := Record{
		Attempt: Attempt{ID: 3, Generation: 2, Number: 1}, Installed: true, InstalledAt: time.Unix(1, 0), RootDisk: "disk0",
		System: &System{Hostname: "a", HostKeys: []string{"key"}},
		Origin: &Origin{Retained: "a", UID: "a", Attempt: 3, MAC: a.MAC, Address: a.Address},
	}
	if diff := cmp.Diff(want, record); diff != "" {
		t.Errorf("record (-want +got)\n%s", diff)
	}
	var names []string
	entries, err := os.ReadDir(a.Dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"disk0.raw", "disks.json", "owner.json"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got files %v, %v, want %v", names, err, want)
	}
	if got := string(read(t, a.Disks[0].Path)[:6]); got != "system" {
		t.Errorf("got disk content %q, want that of the retained disk", got)
	}
	if _, err := os.Lstat(a.From); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the retained disks: got %v, want them to be gone", err)
	}
	if again, err := Adopt(a); err != nil || cmp.Diff(record, again) != "" {
		t.Errorf("second call: got %+v, %v, want the same record", again, err)
	}
}

// Of two targets that adopt the same disks, one gets them.
func TestAdoptOnce(t *testing.T) {
	a := retained(t)
	if _, err := Adopt(a); err != nil {
		t.Fatal(err)
	}
	b := adoption(filepath.Dir(filepath.Dir(a.From)), "a", "c")
	if record, err := Adopt(b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %+v, %v, want that the disks do not exist", record, err)
	}
	if _, err := os.Lstat(b.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other machine: got %v, want it to have no directory", err)
	}
}

// An adoption that was interrupted after any of its steps is completed.
func TestAdoptAfterInterruption(t *testing.T) {
	for name, interrupt := range map[string]func(a Adoption){
		"before the move": func(a Adoption) { _ = os.Remove(filepath.Join(a.From, "vars")) },
		"empty directory": func(a Adoption) { _ = os.MkdirAll(a.Dir, 0o700) },
		"after the move": func(a Adoption) {
			_ = os.MkdirAll(filepath.Dir(a.Dir), 0o700)
			_ = os.Rename(a.From, a.Dir)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := retained(t)
			a.Disks[0].Size = 5000 // is grown
			interrupt(a)
			record, err := Adopt(a)
			if err != nil || record.Origin == nil || !record.Installed {
				t.Fatalf("got record %+v, %v, want an installed system with its origin", record, err)
			}
			if info, err := os.Stat(a.Disks[0].Path); err != nil || info.Size() != 5120 {
				t.Errorf("got disk %v, %v, want 5120 bytes", info, err)
			}
		})
	}
}

// What has no record never counts as installed, and is not adopted.
func TestAdoptWithoutRecord(t *testing.T) {
	a := retained(t)
	if err := os.Remove(filepath.Join(a.From, recordName)); err != nil {
		t.Fatal(err)
	}
	if record, err := Adopt(a); !errors.Is(err, fs.ErrNotExist) || record.Installed {
		t.Errorf("got %+v, %v, want an error", record, err)
	}
	if got := string(read(t, filepath.Join(a.From, "disk0.raw"))[:6]); got != "system" {
		t.Errorf("got disk content %q, want it unchanged", got)
	}
}

// Disks that are retained and adopted again keep the identity of the system, until it is
// installed again.
func TestAdoptTwice(t *testing.T) {
	for name, reinstall := range map[string]bool{"same system": false, "installed again": true} {
		t.Run(name, func(t *testing.T) {
			a := retained(t)
			record, err := Adopt(a)
			if err != nil {
				t.Fatal(err)
			}
			want := &Origin{Retained: "b", UID: "a", Attempt: 3, MAC: a.MAC, Address: a.Address}
			if reinstall {
				if record, err = Prepare(a.Dir, record.Begin(3), a.Disks); err != nil || record.Origin == nil || record.System != nil {
					t.Fatalf("got record %+v, %v, want one with an origin and no system", record, err)
				}
				want.UID, want.Attempt = "b", 4
			}
			parent := filepath.Dir(filepath.Dir(a.From))
			if _, err := Retain(a.Dir, dir(parent, "b"), a.Disks, "owner.json"); err != nil {
				t.Fatal(err)
			}
			if err := Remove(a.Dir); err != nil {
				t.Fatal(err)
			}
			record, err = Adopt(adoption(parent, "b", "c"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, record.Origin); diff != "" {
				t.Errorf("origin (-want +got)\n%s", diff)
			}
		})
	}
}
