// SPDX-License-Identifier: Apache-2.0

package landlock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asProgram makes the test binary try what the policy of TestStart denies or permits.
const asProgram = "LANDLOCK_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asProgram); dir != "" {
		try(dir, os.Args[1])
		return
	}
	os.Exit(m.Run())
}

// try prints the name of each attempt that succeeds.
func try(dir, listen string) {
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, attempt := range map[string]func() error{
		"read":        func() error { _, err := os.ReadFile(in("readable")); return err },
		"write":       func() error { return os.WriteFile(in("writable"), []byte("new"), 0o600) },
		"sockets":     func() error { return listenUnix(in("sockets/s")) },
		"remove":      func() error { return os.Remove(in("sockets/old")) },
		"port":        func() error { return listenTCP(listen) },
		"write-other": func() error { return os.WriteFile(in("readable"), []byte("new"), 0o600) },
		"read-other":  func() error { _, err := os.ReadFile(in("other")); return err },
		"create":      func() error { return os.WriteFile(in("sockets/file"), nil, 0o600) },
		"list":        func() error { _, err := os.ReadDir(dir); return err },
		"other-port":  func() error { return listenTCP("127.0.0.1:0") },
		"connect":     func() error { return dialTCP(listen) },
		"multipath":   multipath,
		"signal":      func() error { return syscall.Kill(os.Getppid(), 0) },
	} {
		if attempt() == nil {
			fmt.Println(name)
		}
	}
}

// multipath creates a socket of Multipath TCP, which the kernel of the host may lack.
func multipath() error {
	const protocol = 262
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, protocol)
	if errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.ENOPROTOOPT) {
		return nil
	}
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}

func listenUnix(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return l.Close()
}

func listenTCP(address string) error {
	l, err := net.Listen("tcp", address) // Multipath TCP, or TCP where that is denied
	if err != nil {
		return err
	}
	return l.Close()
}

// dialTCP returns nil if the kernel lets it try: nothing listens there.
func dialTCP(address string) error {
	c, err := net.Dial("tcp", address)
	if err == nil {
		return c.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

func TestStart(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"readable", "writable", "other", "sockets/old"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	policy := Policy{
		Rules: append(System(),
			Rule{Path: self, Access: Execute}, Rule{Path: in("readable"), Access: Read}, Rule{Path: in("writable"), Access: Write},
			Rule{Path: in("sockets"), Access: Sockets}, Rule{Path: in("missing"), Access: Write, Optional: true},
			// The race detector reads its memory map.
			Rule{Path: "/proc", Access: Read}),
		ListenTCP: []int{address.Port},
	}
	var out strings.Builder
	cmd := exec.Command(self, address.String())
	cmd.Env = append(os.Environ(), asProgram+"="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := Start(policy, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	version := Version()
	t.Logf("version %d", version)
	got := map[string]bool{}
	for _, name := range strings.Fields(out.String()) {
		got[name] = true
	}
	for name, since := range map[string]int{ // the version from which on it is denied; 0 is never
		"read": 0, "write": 0, "sockets": 0, "remove": 0, "port": 0,
		"write-other": 1, "read-other": 1, "create": 1, "list": 1, "other-port": 4, "connect": 4, "multipath": 4, "signal": 6,
	} {
		if want := since == 0 || version < since; got[name] != want {
			t.Errorf("%s: got success %t, want %t", name, got[name], want)
		}
	}
	// The thread that was restricted has ended.
	for range 50 {
		if _, err := os.ReadFile(in("other")); err != nil {
			t.Fatalf("this process is restricted as well: %v", err)
		}
	}
}

func TestConnectTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	policy := Policy{Rules: System(), ConnectTCP: true}
	err = Start(policy, func() error { return dialRaw(l.Addr().(*net.TCPAddr).Port) })
	if err != nil {
		t.Errorf("got error %v, want a connection", err)
	}
	policy.ConnectTCP = false
	err = Start(policy, func() error { return dialRaw(l.Addr().(*net.TCPAddr).Port) })
	if Version() >= 4 && !errors.Is(err, syscall.EACCES) {
		t.Errorf("got error %v, want %v", err, syscall.EACCES)
	}
}

// dialRaw connects in the calling thread; package net uses others.
func dialRaw(port int) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	return syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

func TestMissingFile(t *testing.T) {
	policy := Policy{Rules: []Rule{{Path: filepath.Join(t.TempDir(), "missing"), Access: Read}}}
	err := Start(policy, func() error { return nil })
	if Version() > 0 && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, os.ErrNotExist)
	}
}
