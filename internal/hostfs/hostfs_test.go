// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestPrivateDir(t *testing.T) {
	base := t.TempDir()
	open := filepath.Join(base, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(base, "link")
	if err := os.Symlink(open, own); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"creates parents":      filepath.Join(base, "a", "b"),
		"restricts access":     open,
		"accepts its own link": own,
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				if err := PrivateDir(dir); err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != 0o700 {
				t.Errorf("got mode %o, want 700", got)
			}
		})
	}
}

func TestPrivateDirRejects(t *testing.T) {
	base := t.TempDir()
	shared := filepath.Join(base, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, dir, want string) {
		t.Helper()
		if err := PrivateDir(dir); !errors.Is(err, ErrNotPrivate) || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %v with %q", err, ErrNotPrivate, want)
		}
	}
	t.Run("shared directory", func(t *testing.T) {
		check(t, shared, "sticky")
		if info, err := os.Stat(shared); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("got mode %v, error %v; want it unchanged", info.Mode(), err)
		}
	})
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(base, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := PrivateDir(file); err == nil {
			t.Error("got no error for a file, want one")
		}
	})
	t.Run("directory of another user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			check(t, "/", "owned by user 0")
			return
		}
		other := filepath.Join(base, "other")
		if err := errors.Join(os.Mkdir(other, 0o700), os.Chown(other, 1, 1)); err != nil {
			t.Fatal(err)
		}
		check(t, other, "owned by user 1")
	})
	if os.Geteuid() != 0 {
		return // only root can make a link of another user
	}
	t.Run("link of another user", func(t *testing.T) {
		link := filepath.Join(base, "planted")
		if err := errors.Join(os.Symlink(t.TempDir(), link), os.Lchown(link, 1, 1)); err != nil {
			t.Fatal(err)
		}
		check(t, link, "symbolic link")
	})
}

// listen binds a socket of either type.
func listen(t *testing.T, network, path string) interface{ Close() error } {
	t.Helper()
	address := &net.UnixAddr{Name: path, Net: network}
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, address)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	l, err := net.ListenUnix(network, address)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as if the process had been killed
	return l
}

func TestRemoveStaleSocket(t *testing.T) {
	for _, network := range []string{"unix", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			path := filepath.Join(pathstest.Short(t), "s")
			server := listen(t, network, path)
			if err := RemoveStaleSocket(network, path); !errors.Is(err, ErrSocketInUse) {
				t.Errorf("served socket: got error %v, want %v", err, ErrSocketInUse)
			}
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := RemoveStaleSocket(network, path); err != nil {
					t.Errorf("stale or missing socket: got error %v, want nil", err)
				}
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("got error %v, want the socket removed", err)
			}
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := RemoveStaleSocket(network, path); err == nil || !strings.Contains(err.Error(), "not a socket") {
				t.Errorf("file: got error %v, want one with %q", err, "not a socket")
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
				t.Errorf("got file content %q, error %v; want it unchanged", got, err)
			}
		})
	}
}

// TestRemoveStaleSocketKeepsBusyServer covers a server that does not accept: a full
// backlog does not mean that the socket is stale.
func TestRemoveStaleSocketKeepsBusyServer(t *testing.T) {
	path := filepath.Join(pathstest.Short(t), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // fills the backlog
		conn, err := net.DialTimeout("unix", path, socketTimeout/10)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	if err := RemoveStaleSocket("unix", path); err == nil {
		t.Error("got no error for a busy server, want one")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("got error %v, want the socket to remain", err)
	}
}

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if free, err := FreeSpace(dir); err != nil || free <= 0 {
		t.Errorf("FreeSpace: got %d, error %v; want free space", free, err)
	}
	if _, err := FreeSpace(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FreeSpace of a missing directory: got error %v, want %v", err, fs.ErrNotExist)
	}
	for err, want := range map[error]bool{
		fmt.Errorf("writing: %w", &os.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}): true,
		syscall.EDQUOT: true,
		syscall.EIO:    false,
		nil:            false,
	} {
		if got := IsNoSpace(err); got != want {
			t.Errorf("IsNoSpace(%v) = %v, want %v", err, got, want)
		}
	}
	if err := SyncDir(dir); err != nil {
		t.Errorf("SyncDir: got error %v, want nil", err)
	}
	if err := SyncDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of a missing directory: got error %v, want %v", err, fs.ErrNotExist)
	}
}

func TestSparseFiles(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "f")
	if got := FileSize(path); got != 0 {
		t.Errorf("FileSize of a missing file: got %d, want 0", got)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), size/2); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got := FileSize(path); got != size {
		t.Errorf("FileSize: got %d, want %d", got, size)
	}
	if got := AllocatedBytes(info); got >= size {
		t.Fatalf("AllocatedBytes: got %d for 4 bytes of data, want less than %d: does TMPDIR's file system have holes?", got, size)
	}
	if got, err := NextData(f, 0, size); err != nil || got <= 0 || got > size/2 {
		t.Errorf("NextData before the data: got %d, error %v; want at most %d, after a hole", got, err, size/2)
	}
	if got, err := NextData(f, size-4096, size); err != nil || got != size {
		t.Errorf("NextData after the data: got %d, error %v; want %d", got, err, size)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 31, 32, 33, 4096} {
		b := make([]byte, n)
		if !IsZero(b) {
			t.Errorf("IsZero of %d zeros = false, want true", n)
		}
		for _, at := range []int{0, n / 2, n - 1} {
			if n == 0 {
				continue
			}
			b[at] = 1
			if IsZero(b) {
				t.Errorf("IsZero with byte %d of %d set = true, want false", at, n)
			}
			b[at] = 0
		}
	}
}
