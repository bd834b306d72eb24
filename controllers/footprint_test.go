// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// footprint is what this process and its host directories take.
type footprint struct {
	goroutines, descriptors, files int
	disk                           int64  // bytes in files
	heap                           uint64 // bytes in use
	// processes are this process's children, including those that ended and were not
	// waited for. machines are those that the runner has in memory.
	processes, machines int
	// artifacts is the number of files in the store.
	artifacts int
}

func (u footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.2f MB heap, %d processes, %d machines, %d artifacts, %d files of %d bytes",
		u.goroutines, u.descriptors, float64(u.heap)/1e6, u.processes, u.machines, u.artifacts, u.files, u.disk)
}

func (s *soak) footprint() footprint {
	s.t.Helper()
	u := footprint{processes: children(s.t), machines: s.host.Known(), artifacts: s.artifacts()}
	for _, dir := range []string{s.data, s.runtime} {
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil
			}
			if info, err := e.Info(); err == nil {
				u.files++
				u.disk += info.Size()
			}
			return nil
		})
	}
	if open, err := os.ReadDir("/dev/fd"); err == nil {
		u.descriptors = len(open)
	}
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	u.goroutines = runtime.NumGoroutine()
	u.heap = m.HeapAlloc
	return u
}

func (s *soak) artifacts() int {
	s.t.Helper()
	stored, err := s.host.content.Inventory()
	s.must(err)
	return len(stored)
}

// children counts the processes whose parent is this one.
func children(t *testing.T) int {
	t.Helper()
	n := 0
	for _, parent := range parents(t) {
		if parent == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}

// parents returns the PID of the parent of each process.
func parents(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS == "darwin" {
		out, err := exec.CommandContext(t.Context(), "ps", "-A", "-o", "ppid=").Output()
		if err != nil {
			t.Fatalf("listing processes: %v", err)
		}
		return strings.Fields(string(out))
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		// The name in parentheses may contain spaces (proc_pid_stat(5)).
		if _, rest, ok := strings.Cut(string(stat), ") "); ok {
			if fields := strings.Fields(rest); len(fields) > 1 {
				all = append(all, fields[1])
			}
		}
	}
	return all
}

// over returns what exceeds before by more than 5 % and a short-lived connection, and
// what must not differ at all. Of what a few targets take, 5 % is less than the Events of
// the last minutes, for which only the full soak waits.
func (u footprint) over(before footprint, full bool) []string {
	var out []string
	events := 1e6
	if full {
		events = 0
	}
	for _, c := range []struct {
		what          string
		before, after float64
		slack         float64
	}{
		{"goroutines", float64(before.goroutines), float64(u.goroutines), 4},
		{"descriptors", float64(before.descriptors), float64(u.descriptors), 4},
		{"bytes of heap", float64(before.heap), float64(u.heap), events},
		{"bytes on disk", float64(before.disk), float64(u.disk), 0},
		{"files", float64(before.files), float64(u.files), 0},
	} {
		if most := c.before*1.05 + c.slack; c.after > most {
			out = append(out, fmt.Sprintf("%.0f %s, want at most %.0f", c.after, c.what, most))
		}
	}
	for _, c := range []struct {
		what          string
		before, after int
	}{
		{"processes", before.processes, u.processes},
		{"machines in the runner's memory", before.machines, u.machines},
		{"artifacts", before.artifacts, u.artifacts},
	} {
		if c.after != c.before {
			out = append(out, fmt.Sprintf("%d %s, want %d", c.after, c.what, c.before))
		}
	}
	return out
}
