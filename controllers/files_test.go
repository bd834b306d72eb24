// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"io"
	"os"
	"testing"
)

// writeFile writes at the beginning of a file that is there, as a guest does.
func writeFile(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// readFile reads the first n bytes of a file.
func readFile(t *testing.T, path string, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, n)
	if _, err := io.ReadFull(f, raw); err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
