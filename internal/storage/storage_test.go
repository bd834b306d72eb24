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
	if err := Prepare(dir, 1, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, vars, "variables")

	if err := Prepare(dir, 1, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); string(got[:6]) != "system" {
		t.Fatal("the same generation wiped the disk")
	}
	if _, err := MarkInstalled(dir, "sha256:x", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	record, err := Load(dir)
	if err != nil || record.InstalledGeneration() != 1 {
		t.Fatalf("got %+v, %v; want generation 1 installed", record, err)
	}

	if err := Prepare(dir, 2, []Disk{disk}, vars); err != nil {
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
	if err := Prepare(dir, 1, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); len(got) != 4096 || got[0] != 0 {
		t.Error("a half made disk was kept")
	}
}

func TestRetainKeepsDisksAndRecord(t *testing.T) {
	dir, dst := filepath.Join(t.TempDir(), "m"), filepath.Join(t.TempDir(), "kept")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if err := Prepare(dir, 3, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time as after a crash in between
		if err := Retain(dir, dst, []Disk{disk}); err != nil {
			t.Fatal(err)
		}
	}
	if record, err := Load(dst); err != nil || record.Generation != 3 {
		t.Errorf("got %+v, %v", record, err)
	}
	if got := read(t, filepath.Join(dst, "disk0.raw")); len(got) != 4096 {
		t.Errorf("disk has %d bytes", len(got))
	}
}

func TestNothingInstalledWithoutDisks(t *testing.T) {
	if _, err := MarkInstalled(t.TempDir(), "", time.Unix(1, 0)); err == nil {
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
	if err := Prepare(dir, 2, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	if err := Prepare(dir, 1, []Disk{disk}); err == nil {
		t.Error("disks of installation 2 were prepared for installation 1")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Error("the disk was wiped")
	}
}

func TestABrokenRecordWipesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if err := Prepare(dir, 1, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, filepath.Join(dir, recordName), "{")
	if _, err := Load(dir); err == nil {
		t.Error("a broken record was read")
	}
	if err := Prepare(dir, 2, []Disk{disk}); err == nil {
		t.Error("disks of an unknown installation were prepared")
	}
	if _, err := MarkInstalled(dir, "", time.Unix(1, 0)); err == nil {
		t.Error("disks of an unknown installation were marked")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Error("the disk was wiped")
	}
}

func TestMarkInstalledKeepsTheFirstWord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if err := Prepare(dir, 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"first", "second"} {
		record, err := MarkInstalled(dir, digest, time.Unix(1, 0))
		if err != nil || record.ProfileDigest != "first" {
			t.Errorf("%+v, %v", record, err)
		}
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if err := Prepare(dir, 1, []Disk{{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}}); err != nil {
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
