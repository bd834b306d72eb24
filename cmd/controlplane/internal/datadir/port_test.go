// SPDX-License-Identifier: Apache-2.0

package datadir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenKeepsThePort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "port")
	first, err := Listen(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	port := first.Port()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if again.Port() != port {
		t.Errorf("port %d, was %d", again.Port(), port)
	}
	if !strings.HasPrefix(again.Addr().String(), "127.0.0.1:") {
		t.Errorf("listens on %s", again.Addr())
	}
	if l, err := Listen(file, 0); err == nil {
		_ = l.Close()
		t.Error("took a port that is in use")
	} else if !strings.Contains(err.Error(), "--port") {
		t.Errorf("error does not say how to go on: %v", err)
	}
}

func TestListenMovesWhenAsked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "port")
	old, err := Listen(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	free, err := bind(0)
	if err != nil {
		t.Fatal(err)
	}
	port := free.Port()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	moved, err := Listen(file, port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = moved.Close() }()
	if got, err := readPort(file); err != nil || got != port {
		t.Errorf("remembers %d, %v; want %d", got, err, port)
	}
}

func TestListenRefusesAMangledFile(t *testing.T) {
	for _, content := range []string{"", "0", "70000", "http"} {
		file := filepath.Join(t.TempDir(), "port")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Listen(file, 0); err == nil {
			_ = l.Close()
			t.Errorf("%q was taken for a port", content)
		}
	}
}
