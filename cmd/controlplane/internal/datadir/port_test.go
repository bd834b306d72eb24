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
		t.Errorf("got port %d, want %d as before", again.Port(), port)
	}
	if !strings.HasPrefix(again.Addr().String(), "127.0.0.1:") {
		t.Errorf("got address %s, want 127.0.0.1", again.Addr())
	}
	if l, err := Listen(file, 0); err == nil {
		_ = l.Close()
		t.Error("listening on a port in use: got no error, want one")
	} else if !strings.Contains(err.Error(), "--port") {
		t.Errorf("got error %v, want one that mentions --port", err)
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
		t.Errorf("got remembered port %d, error %v, want %d", got, err, port)
	}
}

func TestListenRejectsMalformedFile(t *testing.T) {
	for _, content := range []string{"", "0", "70000", "http"} {
		file := filepath.Join(t.TempDir(), "port")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Listen(file, 0); err == nil {
			_ = l.Close()
			t.Errorf("file content %q: got no error, want one", content)
		}
	}
}
