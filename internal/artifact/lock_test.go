// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// TestLockExcludesAndLeavesNoFile locks one key in several stores on one directory, as
// several processes would. Each holder removes the file on which the others wait.
func TestLockExcludesAndLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	var holders atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		s := openStore(t, dir, nil)
		all.Go(func() {
			for range 25 {
				unlock, err := s.lock(t.Context(), "key", nil)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("got %d holders of the lock, want one", n)
				}
				// Others find the lock held.
				if _, err := os.Stat(filepath.Join(dir, "locks", "key")); err != nil {
					t.Errorf("while the lock is held: %v", err)
				}
				holders.Add(-1)
				unlock()
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(filepath.Join(dir, "locks")); err != nil || len(left) > 0 {
		t.Errorf("got files %v, %v after all locks were released; want none", left, err)
	}
}

// TestLockIsNotOneThatWasRemoved waits for a lock whose file is removed and created
// again by others meanwhile.
func TestLockIsNotOneThatWasRemoved(t *testing.T) {
	dir := t.TempDir()
	s, other := openStore(t, dir, nil), openStore(t, dir, nil)
	unlock, err := s.lock(t.Context(), "key", nil)
	if err != nil {
		t.Fatal(err)
	}
	waiting, got := make(chan struct{}), make(chan error, 1)
	go func() {
		release, err := other.lock(t.Context(), "key", sync.OnceFunc(func() { close(waiting) }))
		if err == nil {
			release()
		}
		got <- err
	}()
	<-waiting
	unlock()
	if err := <-got; err != nil {
		t.Errorf("got error %v after the first holder released the lock, want the lock", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	held, err := s.lock(t.Context(), "key", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer held()
	if _, err := other.lock(ended, "key", nil); err == nil {
		t.Error("got the lock that another store holds, want the context's error")
	}
}
