// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPrepareWipesOncePerGeneration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 1 << 20}
	vars := filepath.Join(dir, "efivars")
	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, vars, "variables")

	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); string(got[:6]) != "system" {
		t.Fatal("the same generation wiped the disk")
	}
	if _, err := MarkInstalled(dir, Attempt{1, 1}, "sha256:x", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	record, err := Load(dir)
	if err != nil || record.InstalledGeneration() != 1 {
		t.Fatalf("got %+v, %v; want generation 1 installed", record, err)
	}

	if _, err := Prepare(dir, Attempt{2, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); len(got) != 1<<20 || got[0] != 0 {
		t.Error("the new generation found the old disk")
	}
	if _, err := os.Stat(vars); err == nil {
		t.Error("the new generation found the old variables")
	}
	record, err = Load(dir)
	if err != nil || record.InstalledGeneration() != 0 || record.Generation != 2 {
		t.Errorf("got %+v, %v; want generation 2 prepared", record, err)
	}
}

func TestInterruptedPrepareIsDoneOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "half made")
	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); len(got) != 4096 || got[0] != 0 {
		t.Error("a half made disk was kept")
	}
}

func TestRetainKeepsDisksAndRecord(t *testing.T) {
	dir, dst := filepath.Join(t.TempDir(), "m"), filepath.Join(t.TempDir(), "kept")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{3, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time as after a crash in between
		if kept, err := Retain(dir, dst, []Disk{disk}); err != nil || !kept {
			t.Fatal(kept, err)
		}
	}
	if record, err := Load(dst); err != nil || record.Generation != 3 {
		t.Errorf("got %+v, %v", record, err)
	}
	if got := read(t, filepath.Join(dst, "disk0.raw")); len(got) != 4096 {
		t.Errorf("disk has %d bytes", len(got))
	}
}

func TestRetainMakesNothingForNothing(t *testing.T) {
	dir, dst := t.TempDir(), filepath.Join(t.TempDir(), "kept")
	if kept, err := Retain(dir, dst, []Disk{{Path: filepath.Join(dir, "disk0.raw")}}); err != nil || kept {
		t.Error(kept, err)
	}
	if _, err := os.Stat(dst); err == nil {
		t.Error("a directory was made")
	}
}

// retainable is a directory with an installation on two disks, the place they
// are to be retained in, and the names of all that is to arrive there.
func retainable(t *testing.T) (dir, dst string, disks []Disk, names []string) {
	t.Helper()
	dir, dst = filepath.Join(t.TempDir(), "machine"), filepath.Join(t.TempDir(), "kept")
	names = []string{"disk0.raw", "disk1.raw", recordName}
	for _, name := range names[:2] {
		disks = append(disks, Disk{Path: filepath.Join(dir, name), Size: 4096})
	}
	if _, err := Prepare(dir, Attempt{3, 1}, disks); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		write(t, d.Path, "system on "+filepath.Base(d.Path))
	}
	return dir, dst, disks, names
}

// checkRetained retains, removes the directory as a deletion does, and wants all
// that retainable made.
func checkRetained(t *testing.T, dir, dst string, disks []Disk) {
	t.Helper()
	if kept, err := Retain(dir, dst, disks); err != nil || !kept {
		t.Fatal(kept, err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		name := filepath.Base(d.Path)
		if got := string(read(t, filepath.Join(dst, name))); got != "system on "+name {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if record, err := Load(dst); err != nil || record.Attempt != (Attempt{3, 1}) {
		t.Errorf("the record is %+v, %v", record, err)
	}
}

func TestARetentionThatFailsHalfWayIsCompleted(t *testing.T) {
	_, _, _, names := retainable(t)
	for _, inTheWay := range names {
		t.Run(inTheWay, func(t *testing.T) {
			dir, dst, disks, _ := retainable(t)
			obstacle := filepath.Join(dst, inTheWay)
			if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time finds what the first one left
				if _, err := Retain(dir, dst, disks); err == nil {
					t.Fatal("a directory was replaced")
				}
				if record, err := Load(dir); err != nil || record.Attempt != (Attempt{3, 1}) {
					t.Errorf("the record went before the rest: %+v, %v", record, err)
				}
			}
			if err := os.RemoveAll(obstacle); err != nil {
				t.Fatal(err)
			}
			checkRetained(t, dir, dst, disks)
		})
	}
}

// Whatever was moved before the manager died, the rest follows.
func TestARetentionIsCompletedFromAnyState(t *testing.T) {
	_, _, _, names := retainable(t)
	for moved := range 1 << len(names) {
		dir, dst, disks, _ := retainable(t)
		if err := os.MkdirAll(dst, 0o700); err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if moved&(1<<i) == 0 {
				continue
			}
			if err := os.Rename(filepath.Join(dir, name), filepath.Join(dst, name)); err != nil {
				t.Fatal(err)
			}
		}
		checkRetained(t, dir, dst, disks)
		checkRetained(t, dir, dst, disks) // the manager died before it could tell
	}
}

func TestDisksWithoutARecordAreRetained(t *testing.T) {
	dir, dst, disks, names := retainable(t)
	if err := os.Remove(filepath.Join(dir, recordName)); err != nil {
		t.Fatal(err)
	}
	if kept, err := Retain(dir, dst, disks); err != nil || !kept {
		t.Fatal(kept, err)
	}
	for _, name := range names[:2] {
		if got := string(read(t, filepath.Join(dst, name))); got != "system on "+name {
			t.Errorf("%s holds %q", name, got)
		}
	}
}

func TestNothingInstalledWithoutDisks(t *testing.T) {
	if _, err := MarkInstalled(t.TempDir(), Attempt{1, 1}, "", time.Unix(1, 0)); err == nil {
		t.Error("a directory without disks was marked as installed")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEarlierInstallationsAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{2, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{disk}); err == nil {
		t.Error("disks of installation 2 were prepared for installation 1")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Error("the disk was wiped")
	}
}

func TestABrokenRecordWipesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, filepath.Join(dir, recordName), "{")
	if _, err := Load(dir); err == nil {
		t.Error("a broken record was read")
	}
	if _, err := Prepare(dir, Attempt{2, 1}, []Disk{disk}); err == nil {
		t.Error("disks of an unknown installation were prepared")
	}
	if _, err := MarkInstalled(dir, Attempt{1, 1}, "", time.Unix(1, 0)); err == nil {
		t.Error("disks of an unknown installation were marked")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Error("the disk was wiped")
	}
}

func TestMarkInstalledKeepsTheFirstWord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if _, err := Prepare(dir, Attempt{1, 1}, nil); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"first", "second"} {
		record, err := MarkInstalled(dir, Attempt{1, 1}, digest, time.Unix(1, 0))
		if err != nil || record.ProfileDigest != "first" {
			t.Errorf("%+v, %v", record, err)
		}
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if _, err := Prepare(dir, Attempt{1, 1}, []Disk{{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is left")
	}
}

func TestAttemptsAtOneInstallation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	first := Attempt{Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	fail := func(a Attempt, inARow int) Record {
		t.Helper()
		record, err := MarkFailed(dir, Failure{Attempt: a, Reason: "NoDiscover", Message: "silence", At: time.Unix(1, 0)}, inARow)
		if err != nil || !record.Failed() {
			t.Fatalf("%+v, %v", record, err)
		}
		return record
	}
	for i := range 2 { // the second word on one attempt does not count
		if r := fail(first, i+1); r.Failures != 1 {
			t.Errorf("%d failures after one", r.Failures)
		}
	}
	write(t, disk.Path, "half an image")
	record, err := Prepare(dir, first.Next(), []Disk{disk})
	if err != nil || record.Failed() || record.Failures != 1 || record.Failure == nil || record.Void {
		t.Fatalf("second attempt: %+v, %v", record, err)
	}
	if got := read(t, disk.Path); len(got) != 4096 || got[0] != 0 {
		t.Error("the second attempt found the first one's disk")
	}
	if _, err := MarkFailed(dir, Failure{Attempt: first}, 2); err == nil {
		t.Error("the first attempt failed after the second had begun")
	}
	if _, err := MarkInstalled(dir, first, "", time.Unix(2, 0)); err == nil {
		t.Error("the first attempt was completed after the second had begun")
	}
	if r := fail(first.Next(), 2); r.Failures != 2 {
		t.Errorf("%d failures after two", r.Failures)
	}
	if _, err := Prepare(dir, Attempt{Generation: 1, Number: 3}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	fail(Attempt{Generation: 1, Number: 3}, 3)
	// What is on the disks counts, also when it came late.
	if r, err := MarkInstalled(dir, Attempt{Generation: 1, Number: 3}, "sha256:x", time.Unix(3, 0)); err != nil || r.Failures != 0 || r.Failure != nil || r.InstalledGeneration() != 1 {
		t.Errorf("installed: %+v, %v", r, err)
	}
	if r, err := MarkFailed(dir, Failure{Attempt: Attempt{Generation: 1, Number: 3}}, 4); err != nil || r.Failures != 0 {
		t.Errorf("installed and failed: %+v, %v", r, err)
	}
	// Another generation starts from one.
	if r, err := Prepare(dir, Attempt{Generation: 2, Number: 1}, []Disk{disk}); err != nil || r.InstalledGeneration() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Prepare(dir, Attempt{Generation: 2}, []Disk{disk}); err == nil {
		t.Error("prepared for no attempt")
	}
}

// A wipe that is broken off leaves nothing that counts as installed.
func TestABrokenOffWipeIsKnown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	first := Attempt{Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	if _, err := MarkInstalled(dir, first, "sha256:x", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	unremovable := filepath.Join(dir, "efivars")
	if err := os.MkdirAll(filepath.Join(unremovable, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(dir, first.Next(), []Disk{disk}, unremovable); err == nil {
		t.Fatal("a directory was wiped")
	}
	record, err := Load(dir)
	if err != nil || !record.Void || record.InstalledGeneration() != 0 || record.Attempt != first.Next() {
		t.Errorf("%+v, %v", record, err)
	}
	if _, err := MarkInstalled(dir, first.Next(), "sha256:x", time.Unix(1, 0)); err == nil {
		t.Error("half wiped disks were marked as installed")
	}
	if err := os.RemoveAll(unremovable); err != nil {
		t.Fatal(err)
	}
	if record, err = Prepare(dir, first.Next(), []Disk{disk}, unremovable); err != nil || record.Void {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestARecordOfOldIsTheFirstAttempt(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, recordName), `{"generation":3,"installed":true,"profileDigest":"sha256:x"}`)
	record, err := Load(dir)
	if err != nil || record.Attempt != (Attempt{Generation: 3, Number: 1}) || record.InstalledGeneration() != 3 {
		t.Errorf("%+v, %v", record, err)
	}
}
