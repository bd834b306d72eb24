// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSerialLogIsCut writes more than a log may hold.
func TestSerialLogIsCut(t *testing.T) {
	path, socket := filepath.Join(t.TempDir(), "serial.log"), filepath.Join(pathstest.Short(t), "serial.sock")
	s, err := openSerial(path, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 2*maxSerialLog/len(line) + 3 {
		if n, err := s.Write(line); n != len(line) || err != nil {
			t.Fatalf("got %d, error %v; want everything written", n, err)
		}
	}
	size, old := hostfs.FileSize(path), hostfs.FileSize(path+".1")
	if size > maxSerialLog || size != s.offset() || old <= maxSerialLog || old > maxSerialLog+int64(len(line)) {
		t.Errorf("got a log of %d bytes, offset %d, after one of %d; want at most %d", size, s.offset(), old, maxSerialLog)
	}
}

// TestSerialLogIsNotCutAgain has a log whose content cannot be kept, as on a full disk:
// it is cut once, and what is printed later stays.
func TestSerialLogIsNotCutAgain(t *testing.T) {
	path, socket := filepath.Join(t.TempDir(), "serial.log"), filepath.Join(pathstest.Short(t), "serial.sock")
	s, err := openSerial(path, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	// It stays, so that no file can be created in its place.
	if err := os.MkdirAll(filepath.Join(path+".1", "file"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(make([]byte, maxSerialLog+1)); err != nil {
		t.Fatal(err)
	}
	const lines = 3
	for range lines {
		if _, err := s.Write([]byte("later\n")); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if want := strings.Repeat("later\n", lines); err != nil || string(text) != want || s.offset() != int64(len(want)) {
		t.Errorf("got a log of %d bytes, offset %d, error %v; want %q", len(text), s.offset(), err, want)
	}
}

// TestSerialLogThatCannotBeCut grows by the limit until cutting it is tried again.
func TestSerialLogThatCannotBeCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	const size = maxSerialLog + 1
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path) // a descriptor that cannot truncate
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s := &serial{log: reader, path: path, size: size, limit: maxSerialLog}
	s.cut()
	if s.size != size || s.limit != size+maxSerialLog {
		t.Errorf("got size %d, limit %d; want %d, %d", s.size, s.limit, size, size+maxSerialLog)
	}
}

// TestSerialClientThatDoesNotRead is disconnected, so that the guest continues.
func TestSerialClientThatDoesNotRead(t *testing.T) {
	path, socket := filepath.Join(t.TempDir(), "serial.log"), filepath.Join(pathstest.Short(t), "serial.sock")
	s, err := openSerial(path, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	client, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	attached := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.client != nil
	}
	for !attached() { // accepted in the background
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	line := bytes.Repeat([]byte("x"), 1<<20)
	for attached() {
		if _, err := s.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	if _, err := s.Write(line); err != nil {
		t.Errorf("Write after close: got error %v, want none", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket exists after close, want it removed")
	}
}

// TestDescriptorLimit ensures that the runtime has raised the limit: a thousand machines
// need four thousand descriptors.
func TestDescriptorLimit(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if got := descriptorLimit(); got != limit.Cur || runtime.GOOS == "linux" && got != limit.Max {
		t.Errorf("got a limit of %d, want the hard limit %d", got, limit.Max)
	}
}
