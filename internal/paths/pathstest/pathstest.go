// SPDX-License-Identifier: Apache-2.0

// Package pathstest provides directories for tests.
package pathstest

import (
	"os"
	"testing"
)

// Short creates a directory that is removed when the test ends. Its path is short
// enough for UNIX sockets, whose paths have at most 107 bytes on Linux and 103 on
// macOS (sun_path in unix(7)); that of t.TempDir may not be.
func Short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "px-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
