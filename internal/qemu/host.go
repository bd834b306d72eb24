// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/firmware"
)

// program is a QEMU that is installed here.
type program struct {
	path string
	// version is the first line of what it says of itself.
	version string
	// sandbox is whether it was built with seccomp.
	sandbox bool
}

// sandboxOption is what Args gives to -sandbox.
const sandboxOption = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// findProgram finds QEMU for the architecture in the PATH and asks what it can do.
func findProgram(ctx context.Context, arch Architecture) (program, error) {
	name := "qemu-system-" + string(arch)
	path, err := exec.LookPath(name)
	if err != nil {
		pkg := map[Architecture]string{X8664: "qemu-system-x86", AArch64: "qemu-system-arm"}[arch]
		return program{}, fmt.Errorf("%w: install %s (Debian, Ubuntu), qemu (Homebrew)", err, pkg)
	}
	if path, err = filepath.Abs(path); err != nil {
		return program{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p := program{path: path}
	if runtime.GOOS == "linux" {
		// A build without seccomp refuses the option itself.
		p.version, err = firstLine(ctx, path, "-sandbox", sandboxOption, "-version")
		if p.sandbox = err == nil; p.sandbox {
			return p, nil
		}
	}
	p.version, err = firstLine(ctx, path, "-version")
	return p, err
}

func firstLine(ctx context.Context, path string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", fmt.Errorf("running %s %s: %w", path, strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

// environment is what QEMU gets of ours: nothing that it could leak to a guest
// that breaks into it.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// machineFirmware is the machine's firmware, with its own copy of what it writes
// to at varsPath.
func machineFirmware(dirs []string, arch Architecture, varsPath string) (Firmware, error) {
	u, err := firmware.Find(dirs, string(arch))
	if err != nil {
		return Firmware{}, err
	}
	f := Firmware{Code: u.Code.Path, CodeFormat: u.Code.Format}
	template, ok := u.Template()
	if !ok {
		return f, nil
	}
	if err := firmware.Instantiate(template, varsPath); err != nil {
		return Firmware{}, err
	}
	if u.Mode == firmware.Combined {
		return Firmware{Code: varsPath, CodeFormat: template.Format, CodeWritable: true}, nil
	}
	f.Vars, f.VarsFormat = varsPath, template.Format
	return f, nil
}

// chooseForwards gives every forward a host port. The description's own slices
// are left alone.
func chooseForwards(nics []NIC) ([]NIC, error) {
	nics = slices.Clone(nics)
	for i := range nics {
		if nics[i].Backend.User == nil {
			continue
		}
		user := *nics[i].Backend.User
		user.Forwards = slices.Clone(user.Forwards)
		for j := range user.Forwards {
			if user.Forwards[j].HostPort != 0 {
				continue
			}
			port, err := freePort()
			if err != nil {
				return nil, err
			}
			user.Forwards[j].HostPort = port
		}
		nics[i].Backend.User = &user
	}
	return nics, nil
}

// freePort is a port that is free now. Should another program take it before
// QEMU does, the start fails with QEMU's message and the next try gets another.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// privateDir makes sure that a directory exists that only this user can enter.
// Below /tmp another user may have made it first, and then owns our sockets.
func privateDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user, or is no directory: remove it or choose another directory", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(path, 0o700)
	}
	return nil
}

// touch makes a private file before QEMU would make a public one.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

const (
	// maxLog is when a log is cut, so that a guest cannot fill the host's disk.
	maxLog = 64 << 20
	// keepLog is how much of its end stays, in a second file.
	keepLog = 8 << 20
)

// cutLog empties a log that has grown too large and keeps its end in path.1.
// Whoever writes the log opened it for appending and goes on from the start.
func cutLog(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= limit {
		return err
	}
	old, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer old.Close()
	keep := min(info.Size(), keepLog)
	if _, err := io.Copy(old, io.NewSectionReader(f, info.Size()-keep, keep)); err != nil {
		return err
	}
	return f.Truncate(0)
}
