// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// deadline bounds the polling for a condition.
type deadline struct{ at time.Time }

func newDeadline(limit time.Duration) deadline { return deadline{time.Now().Add(limit)} }

// pause sleeps until the next poll, or fails the test at the deadline.
func (d deadline) pause(t testing.TB, what string) {
	t.Helper()
	if time.Now().After(d.at) {
		t.Fatal(what)
	}
	time.Sleep(200 * time.Millisecond)
}

// processes returns those whose command line contains text. The end-to-end test
// runs on Linux only: it reads /proc.
func (l *lab) processes(t testing.TB, text string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, dir := range dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && strings.Contains(string(raw), text) {
			out = append(out, pid)
		}
	}
	return out
}

// usage returns a process's resident memory in bytes and its total CPU time.
func usage(t testing.TB, pid int) (resident int64, cpu time.Duration) {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			resident = kib << 10
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	// The fields after the command in parentheses; utime and stime are fields 14
	// and 15 of proc(5), in ticks of 10 ms.
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return resident, time.Duration(user+system) * 10 * time.Millisecond
}

// managerAtRest measures the resources of the idle manager and netbootd.
func managerAtRest(t *testing.T, l *lab) {
	pid := l.program(t, manager).PID
	const span = 30 * time.Second
	_, before := usage(t, pid)
	time.Sleep(span)
	resident, after := usage(t, pid)
	share := 100 * float64(after-before) / float64(span)
	t.Logf("manager at rest: %d MB resident, %.1f %% of a core", resident/1e6, share)
	if resident > 120e6 {
		t.Errorf("manager: got %d MB resident, want at most 120", resident/1e6)
	}
	if share > 2 {
		t.Errorf("manager: got %.1f %% of a core, want at most 2", share)
	}
	kib, err := strconv.ParseInt(l.ssh(t, "server/"+l.serverName(t), "awk '/VmRSS/{print $2}' /proc/$(pidof netbootd)/status"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("netbootd: %d MB resident", kib<<10/1e6)
	if kib<<10 > 40e6 {
		t.Errorf("netbootd: got %d MB resident, want at most 40", kib<<10/1e6)
	}
}
