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

// bootEntry is what the installed system would boot first.
type bootEntry struct {
	Files   fs.FS // that both paths are in
	Kernel  string
	Initrd  string // empty for none
	Cmdline string
}

// errNoEntry says that it can't be told how the installed system boots.
var errNoEntry = errors.New("no boot entry found")

// findBootEntry looks for the default entry of an installed system: in boot
// loader entries, in GRUB's configuration, and last where Debian links its
// kernel, for images whose GRUB carries its configuration with it. root is the
// root file system, boot a separate one for /boot or nil. rootArg names the
// root file system for the last case, consoles are the console= words that
// this machine was started with.
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
				if e.in(files) {
					e.Files = files
					return e, nil
				}
			}
		}
	}
	e := bootEntry{Files: root, Kernel: "vmlinuz", Initrd: "initrd.img"}
	if !e.in(root) {
		return e, errNoEntry
	}
	e.Cmdline = strings.Join(strings.Fields("root="+rootArg+" ro "+grubDefaults(root)+" "+consoles), " ")
	return e, nil
}

// in says whether the entry's files are there.
func (e bootEntry) in(files fs.FS) bool {
	for _, name := range []string{e.Kernel, e.Initrd} {
		if st, err := fs.Stat(files, name); name != "" && (err != nil || !st.Mode().IsRegular()) {
			return false
		}
	}
	return true
}

// loaderEntry reads the newest entry by the Boot Loader Specification.
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
	return e.with(options)
}

// grubEntry reads the first command of GRUB's configuration that boots Linux
// with an initrd: what grub-mkconfig writes needs no more.
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
			return e.with(options)
		}
	}
	return bootEntry{}, errNoEntry
}

func relative(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// with sets the options. Words with variables of the boot loader's mean what
// only the boot loader knows: without them it would be another entry.
func (e bootEntry) with(options []string) (bootEntry, error) {
	root := false
	for _, o := range options {
		if strings.HasPrefix(o, "root=") {
			root = true
		}
		if strings.Contains(o, "$") && o != "$tuned_params" {
			return e, fmt.Errorf("%w: it has the variable %s", errNoEntry, o)
		}
	}
	if e.Kernel == "" || e.Kernel == "." || !root || strings.Contains(e.Kernel+e.Initrd, "$") {
		return e, errNoEntry
	}
	options = slices.DeleteFunc(slices.Clone(options), func(o string) bool { return strings.Contains(o, "$") })
	e.Cmdline = strings.Join(options, " ")
	return e, nil
}

// grubDefaults are the kernel arguments that the image's maker asks for.
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

// ext4UUID reads the UUID of an ext4 file system, as root=UUID= has it.
func ext4UUID(r io.ReaderAt) (string, error) {
	b := make([]byte, 4096)
	if _, err := r.ReadAt(b, 0); err != nil {
		return "", err
	}
	if binary.LittleEndian.Uint16(b[1024+56:]) != 0xEF53 {
		return "", errors.New("no ext4 file system")
	}
	u := b[1024+104 : 1024+120]
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}
