// SPDX-License-Identifier: Apache-2.0

// Package pathstest has what tests of several packages need of paths.
package pathstest

import (
	"os"
	"testing"
)

// Short makes a directory for the test, and removes it when the test ends. Its
// path leaves room for UNIX sockets, whose names have at most 107 bytes on Linux
// and 103 on macOS (sun_path in unix(7)); that of t.TempDir may not.
func Short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "px-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
