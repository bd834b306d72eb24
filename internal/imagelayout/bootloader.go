// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/internal/gpt"
)

// Where boot loaders have their configuration, in the partition of the system, of /boot,
// and of the firmware.
var (
	grubConfigs = []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg"}
	// entryDirs have a file per system (Boot Loader Specification).
	entryDirs = []string{"loader/entries", "boot/loader/entries"}
)

const (
	espVendors     = "efi"
	maxBootConfig  = 1 << 20
	maxBootEntries = 64
)

var (
	// rootArgument is the argument of a kernel that names its root partition.
	rootArgument = regexp.MustCompile(`(?m)^[ \t]*(?:linux|linuxefi|linux16|options|set kernelopts=)[ \t"'].*?\broot=(UUID|PARTUUID|LABEL)=([^\s"']+)`)
	// searchUUID is GRUB's search for the partition with its files, and grubPrefix their
	// folder there.
	searchUUID = regexp.MustCompile(`(?m)^[ \t]*search(?:\.fs_uuid[ \t]+|[ \t].*--fs-uuid[ \t].*?)([0-9A-Fa-f]{4,8}-[0-9A-Fa-f-]{4,27})\b`)
	grubPrefix = regexp.MustCompile(`(?m)^[ \t]*set prefix=\(\$\w+\)["']?(/[^\s"']*)`)
)

// reference is how a boot loader names a partition.
type reference struct{ kind, value string }

func (r reference) names(p Partition) bool {
	switch r.kind {
	case "UUID":
		return p.UUID != "" && strings.EqualFold(r.value, p.UUID)
	case "PARTUUID":
		return p.PartUUID != "" && strings.EqualFold(r.value, p.PartUUID)
	case "LABEL":
		return p.Label != "" && r.value == p.Label
	}
	return false
}

// referenced returns the candidate that the boot loader starts; ok is false if its
// configuration is not found, cannot be read, or names several. That of the firmware's
// partition precedes that of a partition for /boot, and both that of a candidate, which
// names itself.
func (l *Layout) referenced(candidates []Partition) (found Partition, ok bool, err error) {
	var levels [3][]reference
	for _, p := range l.Partitions {
		level := 1
		if slices.ContainsFunc(candidates, func(c Partition) bool { return c.Number == p.Number }) {
			level = 2
		} else if p.Kind == gpt.KindESP {
			level = 0
		}
		refs, err := l.references(p)
		if err != nil {
			return Partition{}, false, err
		}
		levels[level] = append(levels[level], refs...)
	}
	for _, refs := range levels {
		named := slices.DeleteFunc(slices.Clone(candidates), func(p Partition) bool {
			return !slices.ContainsFunc(refs, func(r reference) bool { return r.names(p) })
		})
		if len(named) > 0 {
			return named[0], len(named) == 1, nil
		}
	}
	return Partition{}, false, nil
}

// references returns which root partitions the boot loader's files on a partition name.
// Only an unreadable image is an error.
func (l *Layout) references(p Partition) ([]reference, error) {
	source := &source{ReaderAt: io.NewSectionReader(l.image, p.Start, p.Size)}
	fs, err := open(p.Content, source)
	if err != nil {
		return nil, source.err
	}
	var refs []reference
	add := func(inode uint64, parse func(string) (reference, bool)) {
		text, err := fs.content(inode, maxBootConfig)
		if err != nil {
			return
		}
		if r, ok := parse(string(text)); ok {
			refs = append(refs, r)
		}
	}
	for _, path := range grubConfigs {
		if inode, err := find(fs, path); err == nil && inode != 0 {
			add(inode, rootOfKernel)
		}
	}
	for _, dir := range entryDirs {
		for _, inode := range inodesOf(fs, dir, ".conf") {
			add(inode, rootOfKernel)
		}
	}
	if p.Kind == gpt.KindESP {
		for _, vendor := range inodesOf(fs, espVendors, "") {
			for _, inode := range inodesIn(fs, vendor, "grub.cfg") {
				add(inode, rootOfPrefix)
			}
		}
	}
	return refs, source.err
}

// rootOfKernel returns the root partition of the first kernel in a configuration.
func rootOfKernel(text string) (reference, bool) {
	m := rootArgument.FindStringSubmatch(text)
	if m == nil {
		return reference{}, false
	}
	return reference{m[1], m[2]}, true
}

// rootOfPrefix returns the partition on which GRUB finds its files, if that is the root
// partition: a partition for /boot has them in another folder.
func rootOfPrefix(text string) (reference, bool) {
	search, prefix := searchUUID.FindStringSubmatch(text), grubPrefix.FindStringSubmatch(text)
	if search == nil || prefix == nil || !strings.Contains(prefix[1], "/boot/") {
		return reference{}, false
	}
	return reference{"UUID", search[1]}, true
}

// inodesOf returns the entries of a folder whose names end in suffix.
func inodesOf(fs filesystem, path, suffix string) []uint64 {
	dir, err := find(fs, path)
	if err != nil || dir == 0 {
		return nil
	}
	return inodesIn(fs, dir, suffix)
}

func inodesIn(fs filesystem, dir uint64, suffix string) []uint64 {
	var out []uint64
	err := fs.entries(dir, func(name string, inode uint64) bool {
		if name != "." && name != ".." && strings.HasSuffix(name, suffix) {
			out = append(out, inode)
		}
		return len(out) < maxBootEntries
	})
	if err != nil && !errors.Is(err, errUnreadable) {
		return nil // recorded by the source
	}
	return out
}
