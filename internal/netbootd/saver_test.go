// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestPauseAfterSave(t *testing.T) {
	pause, total := saveEvery, time.Duration(0)
	for range 10 {
		next := pauseAfterSave(pause, time.Millisecond, false)
		if next < pause || next > maxSavePause {
			t.Errorf("after a failure: got a pause of %v after one of %v, want a longer one up to %v", next, pause, maxSavePause)
		}
		pause = next
		total += pause
	}
	if pause != maxSavePause || total < 3*time.Minute {
		t.Errorf("after 10 failures: got a pause of %v and %v in all, want %v and more than 3m", pause, total, maxSavePause)
	}
	for name, c := range map[string]struct {
		last, took time.Duration
		saved      bool
		want       time.Duration
	}{
		"success after failures": {maxSavePause, time.Millisecond, true, saveEvery},
		"slow success":           {saveEvery, 3 * time.Second, true, 30 * time.Second},
		"slow failure":           {saveEvery, 3 * time.Second, false, 30 * time.Second},
		"very slow failure":      {saveEvery, time.Minute, false, maxSavePause},
	} {
		if got := pauseAfterSave(c.last, c.took, c.saved); got != c.want {
			t.Errorf("%s: got a pause of %v, want %v", name, got, c.want)
		}
	}
}

// What a full disk does not accept is saved once there is space, without another change,
// and reported once.
func TestFailedSavesAreRepeated(t *testing.T) {
	const machines = 5
	logs := &logBuffer{}
	s := newIdle(t, machines)
	s.log = slog.New(slog.NewTextHandler(logs, nil))
	for i := range machines {
		m, _ := s.state.machine(idleUID(i))
		if err := s.state.update(m, func(st *netbootapi.MachineState) error {
			st.ScriptAt = time.Unix(1, 0)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.state.sawUnknown(netbootapi.UnknownClient{MAC: "52:54:00:99:99:99", LastSeen: time.Unix(1, 0)})
	s.state.publishDeferred()
	s.leases.noteChange()

	var tried []string
	var failure error = syscall.ENOSPC
	s.store.put = func(path string, raw []byte) error {
		name, err := filepath.Rel(s.store.dir, path)
		if err != nil {
			return err
		}
		tried = append(tried, name)
		if failure != nil {
			return failure
		}
		return putFile(path, raw)
	}
	for range 3 {
		tried = nil
		if s.persist(false) {
			t.Error("on a full disk: got all saved, want a failure")
		}
		// One machine stands for all.
		if len(tried) != 3 {
			t.Errorf("on a full disk: got %q tried, want a machine, the undeclared clients and the leases", tried)
		}
		s.persistNow(idleUID(0))
	}
	failure = errors.New("another failure")
	tried = nil
	if s.persist(false) || len(tried) != machines+2 {
		t.Errorf("after a failure of each file: got %q tried, want all", tried)
	}
	if n := strings.Count(logs.String(), "\n"); n != 1 || !strings.Contains(logs.String(), "no space left") {
		t.Errorf("got log %q, want one line about the full disk", logs)
	}

	failure = nil
	tried = nil
	if !s.persist(false) || len(tried) != machines+2 {
		t.Errorf("with space again: got %q saved, want all", tried)
	}
	tried = nil
	if !s.persist(false) || len(tried) != 0 {
		t.Errorf("after the save: got %q saved again, want nothing", tried)
	}
	if n := strings.Count(logs.String(), "\n"); n != 2 || !strings.Contains(logs.String(), "saved again") {
		t.Errorf("got log %q, want a second line about the end", logs)
	}
	var saved netbootapi.MachineState
	if there, err := s.store.load(observedFile(idleUID(machines-1)), &saved); !there || err != nil || saved.ScriptAt.IsZero() {
		t.Errorf("got %+v saved, %t, error %v; want the change", saved, there, err)
	}
}
