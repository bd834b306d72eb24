// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pxelab/pxelab/internal/landlock"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// hostFiles are what QEMU and the libraries that it loads look up about the host. It
// starts without them.
var hostFiles = []string{"/proc/cpuinfo", "/proc/meminfo", "/proc/sys/vm", "/sys/devices/system", "/sys/kernel/mm"}

// maxBases limits the overlays that a disk may consist of.
const maxBases = 8

// confine returns how to start QEMU so that it can open only the files of the machine, and
// what its program and devices need. A guest that breaks out of QEMU then has neither
// another machine's disk nor the user's files.
func (l *Local) confine(m machine.Machine, p program) (func(start func() error) error, error) {
	policy, err := l.policy(m, p)
	if err != nil {
		return nil, err
	}
	return func(start func() error) error { return landlock.Start(policy, start) }, nil
}

func (l *Local) policy(m machine.Machine, p program) (landlock.Policy, error) {
	policy := landlock.Policy{Rules: landlock.System()}
	add := func(a landlock.Access, optional bool, paths ...string) {
		for _, path := range paths {
			policy.Rules = append(policy.Rules, landlock.Rule{Path: path, Access: a, Optional: optional})
		}
	}
	add(landlock.Read, true, hostFiles...)
	add(landlock.Execute, true, programFiles(p.path)...)
	add(landlock.Read, false, l.options.Readable...)
	// What is missing is reported by QEMU.
	add(writable(m.Firmware.CodeWritable), true, m.Firmware.Code)
	if m.Firmware.Vars != "" {
		add(landlock.Write, true, m.Firmware.Vars)
	}
	add(landlock.Write, false, m.Paths.SerialLog)
	add(landlock.Sockets, false, filepath.Dir(m.Paths.QMP))
	if m.Accelerator == machine.KVM {
		add(landlock.Write, true, "/dev/kvm")
	}
	for _, d := range m.Disks {
		add(writable(!d.ReadOnly), true, d.Path)
		bases, err := l.bases(m, d.Path)
		if err != nil {
			return landlock.Policy{}, err
		}
		add(landlock.Read, true, bases...)
	}
	for _, n := range m.NICs {
		switch {
		case n.Backend.Dgram != nil:
			add(landlock.Sockets, false, filepath.Dir(n.Backend.Dgram.Local))
		case n.Backend.Tap != nil:
			add(landlock.Write, true, "/dev/net/tun")
		case n.Backend.User != nil:
			// QEMU makes the guest's connections.
			policy.ConnectTCP = true
			add(landlock.Read, true, resolverFiles()...)
			for _, f := range n.Backend.User.Forwards {
				policy.ListenTCP = append(policy.ListenTCP, f.HostPort)
			}
		}
	}
	return policy, nil
}

func writable(yes bool) landlock.Access {
	if yes {
		return landlock.Write
	}
	return landlock.Read
}

// programFiles returns the directories of QEMU's program, its modules and its data, if it
// is not a part of the system.
func programFiles(path string) []string {
	dirs := []string{filepath.Dir(path)}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return dirs
	}
	dir := filepath.Dir(real)
	dirs = append(dirs, dir)
	if prefix := filepath.Dir(dir); filepath.Base(dir) == "bin" && prefix != "/" {
		for _, name := range []string{"lib", "lib64", "libexec", "share/qemu"} {
			dirs = append(dirs, filepath.Join(prefix, name))
		}
	}
	return dirs
}

// resolverFiles are what QEMU's user-mode network reads to forward the guest's DNS
// requests. The file is often replaced, so its directory is needed.
func resolverFiles() []string {
	const path = "/etc/resolv.conf"
	real, err := filepath.EvalSymlinks(path)
	if err != nil || filepath.Dir(real) == "/etc" {
		return []string{path}
	}
	return []string{filepath.Dir(real)}
}

// bases returns the files that an overlay consists of besides itself. They must be in the
// artifact store or be the machine's: the header is in a file that QEMU writes, and must
// not give it access to others at the next start.
func (l *Local) bases(m machine.Machine, disk string) ([]string, error) {
	var bases []string
	for path := disk; len(bases) < maxBases; {
		base, err := qemuimg.BackingFile(path)
		if err != nil {
			return bases, nil // QEMU reports what is wrong with the disk
		}
		if base == "" {
			return bases, nil
		}
		if !filepath.IsAbs(base) {
			base = filepath.Join(filepath.Dir(path), base)
		}
		if !below(base, filepath.Join(l.options.DataDir, "artifacts")) && !below(base, m.Paths.Dir) {
			return nil, fmt.Errorf("disk %s is based on %s, which is neither an artifact nor a file of the machine; "+
				"delete the object to have the disk created again", disk, base)
		}
		bases = append(bases, base)
		path = base
	}
	return nil, fmt.Errorf("disk %s consists of more than %d files", disk, maxBases)
}

// below reports whether a file is in a directory or below it, wherever links lead to.
func below(path, dir string) bool {
	for _, name := range []*string{&path, &dir} {
		if real, err := filepath.EvalSymlinks(*name); err == nil {
			*name = real
		}
	}
	return strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+string(filepath.Separator))
}
