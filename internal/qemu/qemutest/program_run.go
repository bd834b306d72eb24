// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownerCheck is how often a fake process checks that the test which installed the
// program still runs.
const ownerCheck = 10 * time.Second

// RunProgram runs the fake of QEMU and does not return when this process was started
// under the name of QEMU's program, as a link that [InstallProgram] made does.
// TestMain calls it before anything else.
func RunProgram() {
	name := filepath.Base(os.Args[0])
	if !strings.HasPrefix(name, programPrefix) {
		return
	}
	dir := filepath.Dir(os.Args[0])
	go func() {
		for ownerRuns(dir) {
			time.Sleep(ownerCheck)
		}
		os.Exit(1)
	}()
	if err := runProgram(dir, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ownerRuns reports whether the process that installed the program runs. A test that
// failed or was killed may have left machines behind.
func ownerRuns(dir string) bool {
	text, err := os.ReadFile(ownerPath(dir))
	if err != nil {
		return false // its directory is removed at the end of the test
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return false
	}
	err = syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM) // a confined program must not signal it
}

func runProgram(dir string, args []string) error {
	c, err := parseCommandLine(args)
	if err != nil {
		return err
	}
	if c.version {
		fmt.Println("QEMU emulator version 0.0.0 (fake)")
		return nil
	}
	g := &guest{dir: dir, commandLine: c, runState: "running", ended: make(chan struct{})}
	faults := g.faults()
	if faults.FailStart != "" {
		return errors.New(faults.FailStart)
	}
	if c.paused {
		g.runState = "prelaunch"
	}
	time.Sleep(faults.Delay)
	var sockets []net.Listener
	for _, path := range []string{c.qmp, c.serial, c.vnc} {
		l, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		sockets = append(sockets, l)
	}
	if err := g.openNICs(); err != nil {
		return err
	}
	go g.serve(sockets[0])
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	if !c.paused {
		g.resume()
	}
	for {
		select {
		case <-terminated:
			if !g.hangs("SIGTERM") {
				return nil
			}
		case <-g.ended:
			return nil
		}
	}
}

// commandLine is the part of a command line that the fake acts on.
type commandLine struct {
	version, paused, panicPauses            bool
	uuid, name, qmp, serial, serialLog, vnc string
	// bootIndex is by device ID; 0 is none. drivers has the same keys.
	bootIndex map[string]int
	drivers   map[string]string
	// files are those of block devices.
	files []string
	// backends are the IDs of network backends and the names of block nodes.
	backends map[string]bool
	// forwards are TCP ports of the host that lead to the guest, and frames are the
	// sockets on which NICs receive.
	forwards []forward
	frames   []string
}

// ignored are the options that have no effect on the fake. Every other unknown
// option is refused, as QEMU does.
var ignored = []string{"msg", "sandbox", "rtc", "boot", "smbios", "machine", "accel", "cpu", "smp", "m",
	"display", "mon", "object", "serial"}

func parseCommandLine(args []string) (commandLine, error) {
	c := commandLine{bootIndex: map[string]int{}, drivers: map[string]string{}, backends: map[string]bool{}}
	for len(args) > 0 {
		name := strings.TrimPrefix(args[0], "-")
		args = args[1:]
		switch name {
		case "nodefaults", "no-user-config":
			continue
		case "version":
			c.version = true
			continue
		case "S":
			c.paused = true
			continue
		}
		if len(args) == 0 {
			return c, fmt.Errorf("-%s: requires an argument", name)
		}
		if err := c.option(name, args[0]); err != nil {
			return c, err
		}
		args = args[1:]
	}
	return c, nil
}

func (c *commandLine) option(name, value string) error {
	o := options(value)
	switch name {
	case "uuid":
		c.uuid = value
	case "name":
		c.name = o["guest"]
	case "action":
		c.panicPauses = o["panic"] == "pause"
	case "vnc":
		c.vnc = strings.ReplaceAll(strings.TrimPrefix(value, "unix:"), ",,", ",")
	case "chardev":
		switch o["id"] {
		case "qmp":
			c.qmp = o["path"]
		case "serial0":
			c.serial, c.serialLog = o["path"], o["logfile"]
		}
	case "drive":
		c.files = append(c.files, o["file"])
		return openable(name, value, o["file"])
	case "blockdev":
		c.backends[o["node-name"]] = true
		if o["filename"] != "" {
			c.files = append(c.files, o["filename"])
		}
		return openable(name, value, o["filename"])
	case "netdev":
		return c.netdev(value)
	case "device":
		return c.device(value, o)
	default:
		if !slices.Contains(ignored, name) {
			return fmt.Errorf("-%s: invalid option", name)
		}
	}
	return nil
}

// openable refuses the path of a file that does not exist.
func openable(name, value, path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("-%s %s: Could not open '%s': No such file or directory", name, value, path)
	}
	return nil
}

func (c *commandLine) device(value string, o map[string]string) error {
	for _, property := range []string{"drive", "netdev"} {
		if backend, ok := o[property]; ok && !c.backends[backend] {
			return fmt.Errorf("-device %s: Property '%s' can't find value '%s'", value, property, backend)
		}
	}
	if _, ok := c.bootIndex[o["id"]]; ok {
		return fmt.Errorf("-device %s: Duplicate device ID '%s'", value, o["id"])
	}
	index := 0
	if text, ok := o["bootindex"]; ok {
		var err error
		if index, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("-device %s: %w", value, err)
		}
	}
	c.bootIndex[o["id"]] = index
	c.drivers[o["id"]], _, _ = strings.Cut(value, ",")
	return nil
}

// options splits an option's value; a doubled comma is part of a value.
func options(value string) map[string]string {
	out := map[string]string{}
	for key, value := range pairs(value) {
		out[key] = value
	}
	return out
}

// pairs yields the keys and values of an option, of which some may be repeated.
func pairs(value string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for pair := range strings.SplitSeq(strings.ReplaceAll(value, ",,", "\x00"), ",") {
			key, value, _ := strings.Cut(pair, "=")
			if !yield(key, strings.ReplaceAll(value, "\x00", ",")) {
				return
			}
		}
	}
}
