// SPDX-License-Identifier: Apache-2.0

package targetdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPrepareWipesOncePerAttempt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 1 << 20}
	vars := filepath.Join(dir, "efivars")
	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, vars, "variables")

	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	if got := read(t, disk.Path); string(got[:6]) != "system" {
		t.Fatalf("second call for the same attempt: got disk %q, want it unchanged", got[:6])
	}
	if _, err := MarkInstalled(dir, Attempt{1, 1, 1}, Installed{At: time.Unix(1, 0), ProfileDigest: "sha256:x"}); err != nil {
		t.Fatal(err)
	}
	record, err := Load(dir)
	if err != nil || record.InstalledGeneration() != 1 {
		t.Fatalf("got %+v, %v; want generation 1 installed", record, err)
	}

	if _, err := Prepare(dir, Attempt{2, 2, 1}, []Disk{disk}, vars); err != nil {
		t.Fatal(err)
	}
	checkBlank(t, disk)
	if _, err := os.Stat(vars); err == nil {
		t.Errorf("new generation: got firmware variables %s, want them removed", vars)
	}
	record, err = Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if record.Generation != 2 {
		t.Errorf("after Prepare: got generation %d, want 2", record.Generation)
	}
	if got := record.InstalledGeneration(); got != 0 {
		t.Errorf("after Prepare: got installed generation %d, want 0", got)
	}
}

func TestPrepareReplacesUnrecordedDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "incomplete")
	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	checkBlank(t, disk)
}

func TestRetainMovesDisksAndRecord(t *testing.T) {
	dir, dst := filepath.Join(t.TempDir(), "m"), filepath.Join(t.TempDir(), "kept")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{3, 3, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second call as after a crash
		if kept, err := Retain(dir, dst, []Disk{disk}); err != nil || !kept {
			t.Fatalf("got %v, %v; want true", kept, err)
		}
	}
	if record, err := Load(dst); err != nil || record.Generation != 3 {
		t.Errorf("got %+v, %v; want generation 3", record, err)
	}
	if got := read(t, filepath.Join(dst, "disk0.raw")); len(got) != 4096 {
		t.Errorf("got a disk of %d bytes, want 4096", len(got))
	}
}

func TestRetainWithoutDisksCreatesNothing(t *testing.T) {
	dir, dst := t.TempDir(), filepath.Join(t.TempDir(), "kept")
	if kept, err := Retain(dir, dst, []Disk{{Path: filepath.Join(dir, "disk0.raw")}}); err != nil || kept {
		t.Errorf("got %v, %v; want false", kept, err)
	}
	if _, err := os.Stat(dst); err == nil {
		t.Errorf("Retain without disks: got directory %s, want none", dst)
	}
}

// retainable creates a directory with an installation on two disks. dst is the
// destination for Retain, names are the files that it must contain afterwards.
func retainable(t *testing.T) (dir, dst string, disks []Disk, names []string) {
	t.Helper()
	dir, dst = filepath.Join(t.TempDir(), "machine"), filepath.Join(t.TempDir(), "kept")
	names = []string{"disk0.raw", "disk1.raw", recordName}
	for _, name := range names[:2] {
		disks = append(disks, Disk{Path: filepath.Join(dir, name), Size: 4096})
	}
	if _, err := Prepare(dir, Attempt{3, 3, 1}, disks); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		write(t, d.Path, "system on "+filepath.Base(d.Path))
	}
	return dir, dst, disks, names
}

// checkRetained calls Retain, removes the directory as a deletion does, and
// checks that dst contains everything that retainable created.
func checkRetained(t *testing.T, dir, dst string, disks []Disk) {
	t.Helper()
	if kept, err := Retain(dir, dst, disks); err != nil || !kept {
		t.Fatalf("got %v, %v; want true", kept, err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		name := filepath.Base(d.Path)
		if got := string(read(t, filepath.Join(dst, name))); got != "system on "+name {
			t.Errorf("%s: got %q, want %q", name, got, "system on "+name)
		}
	}
	if record, err := Load(dst); err != nil || record.Attempt != (Attempt{3, 3, 1}) {
		t.Errorf("got %+v, %v; want %v", record, err, Attempt{3, 3, 1})
	}
}

func TestRetainCompletesAfterError(t *testing.T) {
	_, _, _, names := retainable(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			dir, dst, disks, _ := retainable(t)
			obstacle := filepath.Join(dst, name)
			if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second call starts from the state that the first one left
				if _, err := Retain(dir, dst, disks); err == nil {
					t.Fatal("Retain over a directory: got no error, want one")
				}
				if record, err := Load(dir); err != nil || record.Attempt != (Attempt{3, 3, 1}) {
					t.Errorf("after the error: got record %+v, %v; want %v, moved last", record, err, Attempt{3, 3, 1})
				}
			}
			if err := os.RemoveAll(obstacle); err != nil {
				t.Fatal(err)
			}
			checkRetained(t, dir, dst, disks)
		})
	}
}

func TestRetainCompletesFromAnyState(t *testing.T) {
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
		checkRetained(t, dir, dst, disks) // as after a crash before the result was recorded
	}
}

func TestRetainMovesDisksWithoutRecord(t *testing.T) {
	dir, dst, disks, names := retainable(t)
	if err := os.Remove(filepath.Join(dir, recordName)); err != nil {
		t.Fatal(err)
	}
	if kept, err := Retain(dir, dst, disks); err != nil || !kept {
		t.Fatalf("got %v, %v; want true", kept, err)
	}
	for _, name := range names[:2] {
		if got := string(read(t, filepath.Join(dst, name))); got != "system on "+name {
			t.Errorf("%s: got %q, want %q", name, got, "system on "+name)
		}
	}
}

func TestMarkInstalledFailsWithoutDisks(t *testing.T) {
	if _, err := MarkInstalled(t.TempDir(), Attempt{1, 1, 1}, Installed{At: time.Unix(1, 0)}); err == nil {
		t.Error("got no error for a directory without disks, want one")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkBlank asserts that a disk has its declared size and contains no data.
func checkBlank(t *testing.T, disk Disk) {
	t.Helper()
	got := read(t, disk.Path)
	if int64(len(got)) != disk.Size {
		t.Fatalf("got a disk of %d bytes, want %d", len(got), disk.Size)
	}
	if got[0] != 0 {
		t.Errorf("got a disk that starts with %q, want a blank one", got[:16])
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

func TestPrepareRejectsEarlierGeneration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{2, 2, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{disk}); err == nil {
		t.Error("got no error for an earlier generation, want one")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Errorf("after an error: got disk %q, want it unchanged", got)
	}
}

func TestPrepareKeepsDisksWithDamagedRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	write(t, filepath.Join(dir, recordName), "{")
	if _, err := Load(dir); err == nil {
		t.Error("Load: got no error for a damaged record, want one")
	}
	if _, err := Prepare(dir, Attempt{2, 2, 1}, []Disk{disk}); err == nil {
		t.Error("Prepare: got no error for a damaged record, want one")
	}
	if _, err := MarkInstalled(dir, Attempt{1, 1, 1}, Installed{At: time.Unix(1, 0)}); err == nil {
		t.Error("MarkInstalled: got no error for a damaged record, want one")
	}
	if got := read(t, disk.Path); string(got) != "system" {
		t.Errorf("after an error: got disk %q, want it unchanged", got)
	}
}

func TestMarkInstalledKeepsFirstResult(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if _, err := Prepare(dir, Attempt{1, 1, 1}, nil); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"first", "second"} {
		i := Installed{At: time.Unix(1, 0), ProfileDigest: digest, Warnings: []string{digest}}
		record, err := MarkInstalled(dir, Attempt{1, 1, 1}, i)
		if err != nil || record.ProfileDigest != "first" {
			t.Errorf("got %+v, %v; want profile digest %q", record, err, "first")
		}
		if record, err = Load(dir); err != nil || len(record.Warnings) != 1 || record.Warnings[0] != "first" {
			t.Errorf("got %+v, %v; want the warning %q", record, err, "first")
		}
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	if _, err := Prepare(dir, Attempt{1, 1, 1}, []Disk{{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("after Remove: got directory %s, want none", dir)
	}
}

func TestAttemptsOfOneGeneration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	first := Attempt{ID: 1, Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	fail := func(a Attempt, consecutive int) Record {
		t.Helper()
		record, err := MarkFailed(dir, Failure{Attempt: a, Reason: "NoDiscover", Message: "silence", At: time.Unix(1, 0)}, consecutive)
		if err != nil || !record.Failed() {
			t.Fatalf("MarkFailed: got %+v, %v; want a failed attempt", record, err)
		}
		return record
	}
	for i := range 2 { // a second result of one attempt is ignored
		if r := fail(first, i+1); r.Failures != 1 {
			t.Errorf("got %d failures, want 1", r.Failures)
		}
	}
	write(t, disk.Path, "half an image")
	record, err := Prepare(dir, first.Next(), []Disk{disk})
	if err != nil {
		t.Fatal(err)
	}
	if record.Failed() || record.Void {
		t.Fatalf("second attempt: got %+v, want usable disks", record)
	}
	if record.Failures != 1 {
		t.Fatalf("second attempt: got %d failures, want 1", record.Failures)
	}
	if record.Failure == nil {
		t.Fatal("second attempt: got no failure in the record, want that of the first attempt")
	}
	checkBlank(t, disk)
	if _, err := MarkFailed(dir, Failure{Attempt: first}, 2); err == nil {
		t.Error("MarkFailed: got no error for the first attempt after the second had started, want one")
	}
	if _, err := MarkInstalled(dir, first, Installed{At: time.Unix(2, 0)}); err == nil {
		t.Error("MarkInstalled: got no error for the first attempt after the second had started, want one")
	}
	if r := fail(first.Next(), 2); r.Failures != 2 {
		t.Errorf("got %d failures, want 2", r.Failures)
	}
	if _, err := Prepare(dir, Attempt{ID: 3, Generation: 1, Number: 3}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	fail(Attempt{ID: 3, Generation: 1, Number: 3}, 3)
	// A late success overrides the failure.
	r, err := MarkInstalled(dir, Attempt{ID: 3, Generation: 1, Number: 3}, Installed{At: time.Unix(3, 0), ProfileDigest: "sha256:x"})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.InstalledGeneration(); got != 1 {
		t.Errorf("MarkInstalled after a failure: got installed generation %d, want 1", got)
	}
	if r.Failures != 0 {
		t.Errorf("MarkInstalled after a failure: got %d failures, want none", r.Failures)
	}
	if r.Failure != nil {
		t.Errorf("MarkInstalled after a failure: got failure %+v, want none", r.Failure)
	}
	if r, err := MarkFailed(dir, Failure{Attempt: Attempt{ID: 3, Generation: 1, Number: 3}}, 4); err != nil || r.Failures != 0 {
		t.Errorf("MarkFailed after a success: got %+v, %v; want no failures", r, err)
	}
	// Another generation starts at attempt 1.
	if r, err := Prepare(dir, Attempt{ID: 4, Generation: 2, Number: 1}, []Disk{disk}); err != nil || r.InstalledGeneration() != 0 {
		t.Errorf("next generation: got %+v, %v; want nothing installed", r, err)
	}
	if _, err := Prepare(dir, Attempt{ID: 5, Generation: 2}, []Disk{disk}); err == nil {
		t.Error("Prepare: got no error for attempt 0, want one")
	}
}

// A disk that is kept has its content in the next attempt, and one that was lost is blank.
func TestPrepareKeepsDisks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disks := []Disk{{Path: filepath.Join(dir, "disk0.raw"), Size: 4096, Keep: true}, {Path: filepath.Join(dir, "disk1.raw"), Size: 4096, Keep: true}}
	first := Attempt{ID: 1, Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, disks); err != nil {
		t.Fatal(err)
	}
	if _, err := MarkInstalled(dir, first, Installed{At: time.Unix(1, 0), RootDisk: "disk1"}); err != nil {
		t.Fatal(err)
	}
	write(t, disks[0].Path, "data")
	vars := filepath.Join(dir, "vars")
	write(t, vars, "boot entries")
	if err := os.Remove(disks[1].Path); err != nil {
		t.Fatal(err)
	}
	record, err := Prepare(dir, first.Begin(2), disks, vars)
	if err != nil || record.Installed || record.Void || record.RootDisk != "" {
		t.Errorf("got record %+v, %v, want nothing to be installed", record, err)
	}
	if got := string(read(t, disks[0].Path)); got != "data" {
		t.Errorf("got disk content %q, want it unchanged", got)
	}
	if info, err := os.Stat(disks[1].Path); err != nil || info.Size() != 4096 {
		t.Errorf("lost disk: got %v, %v, want a blank one", info, err)
	}
	if _, err := os.Stat(vars); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("firmware variables: got %v, want them to be removed", err)
	}
}

func TestInterruptedPrepareLeavesVoidDisks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	first := Attempt{ID: 1, Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	if _, err := MarkInstalled(dir, first, Installed{At: time.Unix(1, 0), ProfileDigest: "sha256:x"}); err != nil {
		t.Fatal(err)
	}
	unremovable := filepath.Join(dir, "efivars")
	if err := os.MkdirAll(filepath.Join(unremovable, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(dir, first.Next(), []Disk{disk}, unremovable); err == nil {
		t.Fatal("Prepare: got no error for a directory that cannot be removed, want one")
	}
	record, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !record.Void {
		t.Errorf("after an interrupted Prepare: got %+v, want void disks", record)
	}
	if got := record.InstalledGeneration(); got != 0 {
		t.Errorf("after an interrupted Prepare: got installed generation %d, want 0", got)
	}
	if record.Attempt != first.Next() {
		t.Errorf("after an interrupted Prepare: got attempt %v, want %v", record.Attempt, first.Next())
	}
	if _, err := MarkInstalled(dir, first.Next(), Installed{At: time.Unix(1, 0), ProfileDigest: "sha256:x"}); err == nil {
		t.Error("MarkInstalled: got no error for void disks, want one")
	}
	if err := os.RemoveAll(unremovable); err != nil {
		t.Fatal(err)
	}
	if record, err = Prepare(dir, first.Next(), []Disk{disk}, unremovable); err != nil || record.Void {
		t.Errorf("second call: got %+v, %v; want usable disks", record, err)
	}
}

func TestLoadRecordWithoutAttemptNumber(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, recordName), `{"generation":3,"installed":true,"profileDigest":"sha256:x"}`)
	record, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Attempt{ID: 1, Generation: 3, Number: 1}); record.Attempt != want {
		t.Errorf("got attempt %v, want %v", record.Attempt, want)
	}
	if got := record.InstalledGeneration(); got != 3 {
		t.Errorf("got installed generation %d, want 3", got)
	}
}

func TestPrepareRejectsInvalidSizes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 4096}
	first := Attempt{ID: 1, Generation: 1, Number: 1}
	if _, err := Prepare(dir, first, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	write(t, disk.Path, "system")
	for _, size := range []int64{-1 << 30, 0, math.MaxInt64} {
		invalid := Disk{Path: filepath.Join(dir, "disk1.raw"), Size: size}
		if _, err := Prepare(dir, first.Next(), []Disk{disk, invalid}); err == nil || !strings.Contains(err.Error(), "positive size") {
			t.Errorf("%d bytes: got error %v, want one with %q", size, err, "positive size")
		}
	}
	if got := string(read(t, disk.Path)); got != "system" {
		t.Errorf("got disk content %q, want it unchanged", got)
	}
	record, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if record.Attempt != first {
		t.Errorf("after an error: got attempt %v, want %v", record.Attempt, first)
	}
	if record.Void {
		t.Error("after an error: got void disks, want usable ones")
	}
}

// 1500M is a size that the API accepts and that is not whole sectors.
func TestPrepareRoundsSizesUpToSectors(t *testing.T) {
	for size, want := range map[int64]int64{1: 512, 512: 512, 513: 1024, 1_500_000_000: 1_500_000_256} {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(size))
		disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: size}
		if _, err := Prepare(dir, Attempt{ID: 1, Generation: 1, Number: 1}, []Disk{disk}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(disk.Path); err != nil || info.Size() != want {
			t.Errorf("%d bytes declared: got %v, %v; want a disk of %d bytes", size, info, err, want)
		}
	}
}

func TestPrepareCreatesSparseDisks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machine")
	disk := Disk{Path: filepath.Join(dir, "disk0.raw"), Size: 1 << 30}
	if _, err := Prepare(dir, Attempt{ID: 1, Generation: 1, Number: 1}, []Disk{disk}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != disk.Size {
		t.Errorf("got a disk of %d bytes, want %d", info.Size(), disk.Size)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("got a disk with mode %v, want 0600", mode)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks > 64 {
		t.Errorf("got a disk of %d blocks, want at most 64", blocks)
	}
}

func TestRecordString(t *testing.T) {
	attempt := Attempt{Generation: 2, Number: 3}
	failure := &Failure{Attempt: attempt, Reason: "NoDiscover", Message: "silence"}
	for want, r := range map[string]Record{
		"no disks":                                {},
		"installation 2, attempt 3: disks void":   {Attempt: attempt, Void: true},
		"installation 2, attempt 3: not finished": {Attempt: attempt},
		`installation 2, attempt 3: installed at 1970-01-01T00:00:01Z with profile "sha256:x"`: {
			Attempt: attempt, Installed: true, InstalledAt: time.Unix(1, 0).UTC(), ProfileDigest: "sha256:x",
		},
		"installation 2, attempt 3: failed; 2 failures, last: NoDiscover: silence (installation 2, attempt 3)": {
			Attempt: attempt, Failures: 2, Failure: failure,
		},
		"installation 2, attempt 4: not finished; 2 failures, last: NoDiscover: silence (installation 2, attempt 3)": {
			Attempt: attempt.Next(), Failures: 2, Failure: failure,
		},
	} {
		if got := fmt.Sprint(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
