// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const bootMount = "/pxelab/boot"

// loadKexec loads the kernel of the installed system, whose root is mounted, so
// that reset can start it without a pass through the firmware.
func (m *machine) loadKexec(d Disk, r *root) error {
	top, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer top.Close()
	boot, unmount, err := m.mountBoot(d, r)
	if err != nil {
		return err
	}
	defer unmount()
	rootArg := r.partition.path()
	if f, err := os.Open(r.partition.path()); err == nil {
		if uuid, err := ext4UUID(f); err == nil {
			rootArg = "UUID=" + uuid
		}
		f.Close()
	}
	e, err := findBootEntry(top.FS(), boot, rootArg, consoleArgs())
	if err != nil {
		return err
	}
	kernel, err := openFile(e.Files, e.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	flags, initrdFD := 0, -1
	if e.Initrd == "" {
		flags = unix.KEXEC_FILE_NO_INITRAMFS
	} else {
		initrd, err := openFile(e.Files, e.Initrd)
		if err != nil {
			return err
		}
		defer initrd.Close()
		initrdFD = int(initrd.Fd())
	}
	if err := unix.KexecFileLoad(int(kernel.Fd()), initrdFD, e.Cmdline, flags); err != nil {
		return fmt.Errorf("loading /%s: %w", e.Kernel, err)
	}
	m.log(fmt.Sprintf("loaded /%s: %s", e.Kernel, e.Cmdline))
	return nil
}

func openFile(files fs.FS, name string) (*os.File, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	file, ok := f.(*os.File)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not a file with a descriptor", name), f.Close())
	}
	return file, nil
}

// mountBoot mounts the installed system's separate partition for /boot, read
// only; boot is nil if there is none. The kernel replays a dirty journal even so.
// That is intended: the disk has no other user, the installed system would replay
// it at its first boot, and with noload or norecovery the boot entries, kernel and
// initrd could be read in a state that the journal has superseded.
func (m *machine) mountBoot(d Disk, r *root) (boot fs.FS, unmount func(), err error) {
	nothing := func() {}
	ps, err := scanPartitions("/sys", d)
	if err != nil {
		return nil, nothing, err
	}
	if err := os.MkdirAll(bootMount, 0o755); err != nil {
		return nil, nothing, err
	}
	for _, p := range ps {
		if p == r.partition {
			continue
		}
		content, err := contentOf(p.path())
		if err != nil || !content.IsRootFilesystem() || m.devices.loadFilesystem(string(content)) != nil {
			continue
		}
		if unix.Mount(p.path(), bootMount, string(content), unix.MS_RDONLY|unix.MS_NOATIME, "") != nil {
			continue
		}
		top, err := os.OpenRoot(bootMount)
		if err == nil {
			unmount := func() {
				top.Close()
				_ = unix.Unmount(bootMount, 0)
			}
			for _, name := range []string{"grub", "grub2", "loader"} {
				if _, err := top.Stat(name); err == nil {
					return top.FS(), unmount, nil
				}
			}
			top.Close()
		}
		_ = unix.Unmount(bootMount, 0)
	}
	return nil, nothing, nil
}

// consoleArgs returns the console= arguments of the running kernel.
func consoleArgs() string {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	var words []string
	for _, w := range splitCommandLine(string(cmdline)) {
		if strings.HasPrefix(w, "console=") {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}
