// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// bootEntry is the default boot entry of the installed system.
type bootEntry struct {
	Files   fs.FS // the file system that both paths refer to
	Kernel  string
	Initrd  string // empty for none
	Cmdline string
}

// errNoEntry reports that the boot entry could not be determined.
var errNoEntry = errors.New("no boot entry found")

// findBootEntry finds the default boot entry of an installed system. It reads
// boot loader entries, then GRUB's configuration, and falls back to Debian's
// kernel symlinks for images whose GRUB has an embedded configuration. root is
// the root file system; boot is a separate file system for /boot, or nil. The
// fallback uses rootArg as root= and consoles, the console= arguments of the
// running kernel. The error wraps errNoEntry.
func findBootEntry(root, boot fs.FS, rootArg, consoles string) (bootEntry, error) {
	type place struct {
		fs.FS
		dir string
	}
	places := []place{{root, "boot"}}
	if boot != nil {
		places = slices.Insert(places, 0, place{boot, "."})
	}
	for _, p := range places {
		for _, find := range []func(fs.FS, string) (bootEntry, error){loaderEntry, grubEntry} {
			e, err := find(p.FS, p.dir)
			if err != nil {
				continue
			}
			for _, files := range []fs.FS{p.FS, root} {
				if e.existsIn(files) {
					e.Files = files
					return e, nil
				}
			}
		}
	}
	e := bootEntry{Files: root, Kernel: "vmlinuz", Initrd: "initrd.img"}
	if !e.existsIn(root) {
		return e, errNoEntry
	}
	e.Cmdline = strings.Join(strings.Fields("root="+rootArg+" ro "+grubDefaults(root)+" "+consoles), " ")
	return e, nil
}

// existsIn reports whether files has the entry's kernel and initrd.
func (e bootEntry) existsIn(files fs.FS) bool {
	for _, name := range []string{e.Kernel, e.Initrd} {
		if st, err := fs.Stat(files, name); name != "" && (err != nil || !st.Mode().IsRegular()) {
			return false
		}
	}
	return true
}

// loaderEntry reads the newest entry of the Boot Loader Specification.
func loaderEntry(files fs.FS, dir string) (bootEntry, error) {
	names, err := fs.Glob(files, path.Join(dir, "loader/entries/*.conf"))
	if err != nil || len(names) == 0 {
		return bootEntry{}, errNoEntry
	}
	names = slices.DeleteFunc(names, func(s string) bool { return strings.Contains(s, "rescue") })
	if len(names) == 0 {
		return bootEntry{}, errNoEntry
	}
	text, err := fs.ReadFile(files, slices.MaxFunc(names, compareNatural))
	if err != nil {
		return bootEntry{}, err
	}
	var e bootEntry
	var options []string
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "linux":
			e.Kernel = relative(f[0])
		case "initrd":
			if e.Initrd == "" {
				e.Initrd = relative(f[0])
			}
		case "options":
			options = append(options, f...)
		}
	}
	return e.withOptions(options)
}

// grubEntry reads the first commands in GRUB's configuration that boot Linux
// with an initrd. That suffices for the output of grub-mkconfig.
func grubEntry(files fs.FS, dir string) (bootEntry, error) {
	var text []byte
	err := errNoEntry
	for _, name := range []string{"grub/grub.cfg", "grub2/grub.cfg"} {
		if text, err = fs.ReadFile(files, path.Join(dir, name)); err == nil {
			break
		}
	}
	if err != nil {
		return bootEntry{}, err
	}
	var e bootEntry
	var options []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "linux", "linuxefi", "linux16":
			e.Kernel, options = relative(f[1]), f[2:]
		case "initrd", "initrdefi", "initrd16":
			if e.Kernel == "" {
				continue
			}
			e.Initrd = relative(f[1])
			return e.withOptions(options)
		}
	}
	return bootEntry{}, errNoEntry
}

func relative(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// withOptions sets the kernel command line. It refuses options with variables,
// whose values only the boot loader knows; $tuned_params is optional and
// dropped.
func (e bootEntry) withOptions(options []string) (bootEntry, error) {
	root := false
	for _, o := range options {
		if strings.HasPrefix(o, "root=") {
			root = true
		}
		if strings.Contains(o, "$") && o != "$tuned_params" {
			return e, fmt.Errorf("%w: kernel argument %s has a boot loader variable", errNoEntry, o)
		}
	}
	if e.Kernel == "" || e.Kernel == "." || !root || strings.Contains(e.Kernel+e.Initrd, "$") {
		return e, errNoEntry
	}
	options = slices.DeleteFunc(slices.Clone(options), func(o string) bool { return strings.Contains(o, "$") })
	e.Cmdline = strings.Join(options, " ")
	return e, nil
}

// grubDefaults returns the kernel arguments configured in /etc/default/grub
// and its drop-ins.
func grubDefaults(root fs.FS) string {
	names, _ := fs.Glob(root, "etc/default/grub.d/*.cfg")
	values := map[string]string{}
	for _, name := range append([]string{"etc/default/grub"}, names...) {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			value = strings.Trim(value, `"'`)
			if ok && strings.HasPrefix(key, "GRUB_CMDLINE_LINUX") && !strings.ContainsAny(value, "$`\\") {
				values[key] = value
			}
		}
	}
	return values["GRUB_CMDLINE_LINUX"] + " " + values["GRUB_CMDLINE_LINUX_DEFAULT"]
}

// ext4UUID reads the UUID of an ext4 file system in the form of root=UUID=.
func ext4UUID(r io.ReaderAt) (string, error) {
	b := make([]byte, 4096)
	if _, err := r.ReadAt(b, 0); err != nil {
		return "", err
	}
	if binary.LittleEndian.Uint16(b[1024+56:]) != 0xEF53 {
		return "", errors.New("not an ext4 file system")
	}
	u := b[1024+104 : 1024+120]
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}
