// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// programPrefix starts the names under which the fake program runs.
const programPrefix = "qemu-system-"

// Faults is how a machine of the fake program deviates from QEMU. The program reads
// them before each step, so that a test can change them while the machine runs.
type Faults struct {
	// FailStart, unless empty, is printed before the program exits with status 1
	// instead of starting.
	FailStart string `json:"failStart,omitempty"`
	// PowerOffAfter is how long the guest runs before it powers itself off; 0 is
	// forever.
	PowerOffAfter time.Duration `json:"powerOffAfter,omitempty"`
	// Delay is added before the program opens its QMP socket, before its greeting
	// and before each reply.
	Delay time.Duration `json:"delay,omitempty"`
	// Hang are the QMP commands that are never answered; "greeting" is the greeting
	// and "*" is everything.
	Hang []string `json:"hang,omitempty"`
	// NoSerial suppresses the firmware's output on the serial port.
	NoSerial bool `json:"noSerial,omitempty"`
	// PowerButton makes the guest power off when its power button is pressed, which
	// it otherwise ignores, as firmware does.
	PowerButton bool `json:"powerButton,omitempty"`
}

// Program is an installed fake of QEMU's program. It accepts the command lines that
// pxelab writes, serves QMP, and executes no guest: a machine that "runs" prints a
// line with the device that it boots from ("fake firmware boots disk0") on its serial
// port and waits, until it is stopped or the process that installed the program has
// ended. Its NICs receive frames and discard them. Connections to the ports of the host
// that a NIC forwards lead to what Serve has set. The guest's hardware accesses that
// tests simulate with human-monitor-command ("o /w 0x604 0x2000" for a power-off, "o /b
// 0x505 1" for a panic) have their effects.
type Program struct {
	dir string
	// FirmwareDirs are directories with a descriptor of a firmware that the program
	// accepts.
	FirmwareDirs []string
	// Readable are what it must be able to read besides QEMU's files: with the race
	// detector, a Go program reads its memory map.
	Readable []string
}

// InstallProgram puts the fake program into PATH for the duration of the test. The
// program is the test's binary: its TestMain must call [RunProgram] first.
func InstallProgram(t testing.TB) *Program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return install(t, self)
}

// BuildProgram is [InstallProgram] with a binary that is built for it. It is for test
// binaries that are expensive to start, such as those that link client-go, and tests
// that run many machines.
func BuildProgram(t testing.TB) *Program {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "fakeqemu")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "github.com/pxelab/pxelab/internal/qemu/qemutest/fakeqemu")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the other programs' build cache
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the fake of QEMU's program: %v\n%s", err, out)
	}
	return install(t, binary)
}

func install(t testing.TB, binary string) *Program {
	t.Helper()
	p := &Program{dir: t.TempDir(), Readable: []string{"/proc"}}
	for _, arch := range []string{"x86_64", "aarch64"} {
		if err := os.Symlink(binary, filepath.Join(p.dir, programPrefix+arch)); err != nil {
			t.Fatal(err)
		}
	}
	owner := strconv.Itoa(os.Getpid())
	if err := errors.Join(os.WriteFile(ownerPath(p.dir), []byte(owner), 0o600), p.installFirmware()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", p.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return p
}

// installFirmware writes a firmware and its descriptor.
func (p *Program) installFirmware() error {
	p.FirmwareDirs = []string{filepath.Join(p.dir, "firmware")}
	code := filepath.Join(p.dir, "code.fd")
	descriptor := fmt.Sprintf(`{"description": "fake", "interface-types": ["uefi"],
"mapping": {"device": "flash", "mode": "split", "executable": {"filename": %[1]q, "format": "raw"},
"nvram-template": {"filename": %[1]q, "format": "raw"}},
"targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}, {"architecture": "aarch64", "machines": ["virt-*"]}]}`, code)
	return errors.Join(
		os.WriteFile(code, []byte("firmware"), 0o600),
		os.Mkdir(p.FirmwareDirs[0], 0o700),
		os.WriteFile(filepath.Join(p.FirmwareDirs[0], "fake.json"), []byte(descriptor), 0o600))
}

// Set sets the faults of the machine with this ID, also of later starts. The ID ""
// is every machine that has none set.
func (p *Program) Set(t testing.TB, id string, f Faults) {
	t.Helper()
	text, err := json.Marshal(f)
	if err == nil {
		err = replace(faultsPath(p.dir, id), text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Serve connects a TCP port of the machine's guest to a server at address, also after
// later starts of the machine. The address "" disconnects it: connections are closed.
// It is safe for concurrent use.
func (p *Program) Serve(id string, guestPort int, address string) error {
	path := servicePath(p.dir, id, guestPort)
	if address != "" {
		return replace(path, []byte(address))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// replace writes a file of which the program never reads a half.
func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func faultsPath(dir, id string) string {
	return filepath.Join(dir, strings.Trim("faults-"+id, "-")+".json")
}

// ownerPath is the file with the PID of the process that installed the program.
func ownerPath(dir string) string { return filepath.Join(dir, "owner") }

func servicePath(dir, id string, guestPort int) string {
	return filepath.Join(dir, fmt.Sprintf("service-%s-%d", id, guestPort))
}

// faultsOf returns the current faults of a machine. It ignores a file that cannot be
// read.
func faultsOf(dir, id string) Faults {
	var f Faults
	for _, path := range []string{faultsPath(dir, id), faultsPath(dir, "")} {
		if text, err := os.ReadFile(path); err == nil {
			_ = json.Unmarshal(text, &f)
			return f
		}
	}
	return f
}
