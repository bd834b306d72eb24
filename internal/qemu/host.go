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
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu/internal/firmware"
)

// program is an installed QEMU.
type program struct {
	path string
	// version is the first line that "-version" prints.
	version string
	// sandbox is whether QEMU was built with seccomp.
	sandbox bool
}

// sandboxOption is the value of -sandbox: what Args uses and findProgram tries.
const sandboxOption = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// findProgram finds QEMU for the architecture in PATH and queries its version and
// features.
func findProgram(ctx context.Context, arch machine.Architecture) (program, error) {
	name := "qemu-system-" + string(arch)
	path, err := exec.LookPath(name)
	if err != nil {
		pkg := map[machine.Architecture]string{machine.X8664: "qemu-system-x86", machine.AArch64: "qemu-system-arm"}[arch]
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

// environment returns QEMU's environment. It contains nothing that a guest which
// breaks out into QEMU should not read.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// machineFirmware returns the machine's firmware. The machine's private copy of
// the writable part is created at varsPath.
func machineFirmware(dirs []string, arch machine.Architecture, varsPath string) (machine.Firmware, error) {
	u, err := firmware.Find(dirs, string(arch))
	if err != nil {
		return machine.Firmware{}, err
	}
	f := machine.Firmware{Code: u.Code.Path, CodeFormat: u.Code.Format}
	template, ok := u.Template()
	if !ok {
		return f, nil
	}
	if err := firmware.Instantiate(template, varsPath); err != nil {
		return machine.Firmware{}, err
	}
	if u.Mode == firmware.Combined {
		return machine.Firmware{Code: varsPath, CodeFormat: template.Format, CodeWritable: true}, nil
	}
	f.Vars, f.VarsFormat = varsPath, template.Format
	return f, nil
}

// chooseForwards returns a copy of the NICs in which every forward has a host
// port.
func chooseForwards(nics []machine.NIC) ([]machine.NIC, error) {
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

// freePort returns a port that is free now. If another program takes it before
// QEMU does, the start fails with QEMU's message and a retry gets another port.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// touch creates a private file, because QEMU would create a public one.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

const (
	// maxLog is the size above which a log is cut, so that a guest cannot fill the
	// host's disk.
	maxLog = 64 << 20
	// keepLog is how much of the log's end is kept, in a second file.
	keepLog = 8 << 20
)

// cutLog truncates a log that is larger than limit and keeps its end in path.1.
// QEMU has opened the log for appending and continues at the new end.
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
