// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := AcquireLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = AcquireLock(dir)
	if err == nil {
		t.Fatal("locking a locked directory: got no error, want one")
	}
	for _, want := range []string{dir, "process " + strconv.Itoa(os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got error %q, want it to contain %q", err, want)
		}
	}
	for range 2 {
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := AcquireLock(dir)
	if err != nil {
		t.Fatalf("Lock after Release: got error %v, want none", err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}
