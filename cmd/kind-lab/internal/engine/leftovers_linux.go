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

// Leftovers returns what a stopped engine has left on the host: processes, mounts,
// network interfaces, cgroups and its sockets. It inspects the host, not the
// engine's record, and should find nothing.
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
		left = append(left, "cgroup "+group)
	}
	if _, err := os.Lstat(e.runDir()); err == nil {
		left = append(left, e.runDir())
	}
	return left, nil
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// processes returns those whose command line contains the engine's runtime
// directory, as those of dockerd, containerd, the shims and Docker's proxies do.
func (e Engine) processes() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var left []string
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || filepath.Base(dir) == fmt.Sprint(os.Getpid()) {
			continue // exited meanwhile, or this process
		}
		if bytes.Contains(line, []byte(e.runDir()+"/")) {
			left = append(left, fmt.Sprintf("process %s (%s)", filepath.Base(dir), bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return left, nil
}
