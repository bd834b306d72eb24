// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// Leftovers names what is on the host of an engine that has been stopped:
// processes, mounts, network interfaces, control groups and its sockets. There should be none;
// this looks at the host and not at the engine's record.
func (e Engine) Leftovers() ([]string, error) {
	var left []string
	processes, err := e.processes()
	if err != nil {
		return nil, err
	}
	left = append(left, processes...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// The mount point is the fifth field, see proc(5).
		if f := strings.Fields(line); len(f) > 4 && (within(f[4], e.Dir) || within(f[4], e.runDir())) {
			left = append(left, "mount "+f[4])
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, e.bridgePrefix()) {
			left = append(left, "network interface "+link.Attrs().Name)
		}
	}
	for _, group := range e.cgroups() {
		left = append(left, "control group "+group)
	}
	if _, err := os.Lstat(e.runDir()); err == nil {
		left = append(left, e.runDir())
	}
	return left, nil
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// processes are those that name the engine's sockets or directory in their
// command line, which dockerd, containerd, the shims and Docker's proxies do.
func (e Engine) processes() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var left []string
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue // ended meanwhile
		}
		if bytes.Contains(line, []byte(e.runDir()+"/")) {
			left = append(left, fmt.Sprintf("process %s (%s)", filepath.Base(dir), bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return left, nil
}
