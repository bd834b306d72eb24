// SPDX-License-Identifier: Apache-2.0

package imagelayout

import (
	"errors"
	"io"
	"slices"

	"github.com/pxelab/pxelab/internal/gpt"
)

// Hint selects the root partition: by its number or by the label of its file system or
// partition. The zero Hint selects none.
type Hint struct {
	Number int
	Label  string
}

// SystemFiles are the files of which every Linux system has one (os-release(5)).
var SystemFiles = []string{"etc/os-release", "usr/lib/os-release"}

// evidence is whether a partition holds a Linux system.
type evidence int

const (
	unknown evidence = iota
	absent
	present
)

// Root returns the partition that holds the system: the one that the hint selects, that
// has the type of a root partition, that is the only one with the files of a system, or that
// the boot loader starts. If several are possible in the end, the image is refused: which
// one it is must be known before it is written. Other errors than *UnsupportedError are those
// of the image.
func (l *Layout) Root(hint Hint) (Partition, error) {
	if hint != (Hint{}) {
		return l.hinted(hint)
	}
	candidates := l.candidates()
	if len(candidates) == 0 {
		return Partition{}, l.withoutRoot()
	}
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	var systems, unclear []Partition
	for _, p := range candidates {
		found, err := l.evidence(p)
		if err != nil {
			return Partition{}, err
		}
		switch found {
		case present:
			systems = append(systems, p)
		case unknown:
			unclear = append(unclear, p)
		}
	}
	if len(systems) == 1 && len(unclear) == 0 {
		return systems[0], nil
	}
	if possible := slices.Concat(systems, unclear); len(possible) > 0 {
		p, ok, err := l.referenced(possible)
		if err != nil || ok {
			return p, err
		}
	}
	return chooseRoot(candidates, systems, unclear)
}

// chooseRoot decides among partitions of which the boot loader names none.
func chooseRoot(candidates, systems, unclear []Partition) (Partition, error) {
	const choose = "set spec.image.root of the profile to the one to configure"
	switch {
	case len(systems) == 1:
		return systems[0], nil
	case len(systems) > 1:
		return Partition{}, unsupported("%d partitions hold a Linux system: %s; %s", len(systems), describe(systems), choose)
	case len(unclear) == 1:
		return unclear[0], nil
	case len(unclear) > 1:
		return Partition{}, unsupported("%d partitions may hold a Linux system, and neither their types nor the boot loader show which one does: %s; %s",
			len(unclear), describe(unclear), choose)
	}
	return Partition{}, unsupported("no partition has %s or %s: %s", SystemFiles[0], SystemFiles[1], describe(candidates))
}

// candidates returns the partitions that may hold a system, by type and content.
func (l *Layout) candidates() []Partition {
	var out, typed []Partition
	for _, p := range l.Partitions {
		if !p.Content.IsRootFilesystem() {
			continue
		}
		switch p.Kind {
		case gpt.KindRoot:
			typed = append(typed, p)
		case gpt.KindLinux, gpt.KindOther:
			out = append(out, p)
		}
	}
	if len(typed) > 0 {
		return typed
	}
	return out
}

func (l *Layout) hinted(hint Hint) (Partition, error) {
	var found []Partition
	for _, p := range l.Partitions {
		byNumber := hint.Number != 0 && p.Number == hint.Number
		if byNumber || hint.Label != "" && (p.Label == hint.Label || p.Name == hint.Label) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		return Partition{}, unsupported("spec.image.root of the profile selects none of its partitions: %s", describe(l.Partitions))
	case len(found) > 1:
		return Partition{}, unsupported("spec.image.root of the profile selects several of its partitions: %s", describe(found))
	case !found[0].Content.IsRootFilesystem():
		return Partition{}, unsupported("spec.image.root of the profile selects %s, which is not ext4, xfs or btrfs", found[0])
	}
	return found[0], nil
}

// withoutRoot returns why no partition can hold the system.
func (l *Layout) withoutRoot() error {
	if l.Scheme == SchemeUnknown {
		return unsupported("it has neither a partition table nor a file system that is known; " +
			"is it a disk image, and is spec.image.source.format right?")
	}
	for _, p := range l.Partitions {
		what := ""
		switch p.Content {
		case ContentLVM:
			what = "an LVM physical volume"
		case ContentLUKS:
			what = "encrypted"
		case ContentRAID:
			what = "a RAID member"
		case ContentSquashFS, ContentEROFS:
			what = "read-only"
		case ContentNTFS:
			what = "a file system of Windows"
		default:
			continue
		}
		return unsupported("its %s is %s, which is not supported; use an image whose root is a partition with ext4, xfs or btrfs", p, what)
	}
	return unsupported("no partition can hold its root file system, which must be ext4, xfs or btrfs: %s", describe(l.Partitions))
}

// evidence looks for the files of a Linux system. Only an unreadable image is an error.
func (l *Layout) evidence(p Partition) (evidence, error) {
	source := &source{ReaderAt: io.NewSectionReader(l.image, p.Start, p.Size)}
	fs, err := open(p.Content, source)
	if err != nil {
		return unknown, source.err
	}
	for _, name := range SystemFiles {
		inode, err := find(fs, name)
		switch {
		case err != nil:
			return unknown, source.err
		case inode != 0:
			return present, nil
		}
	}
	if fs.incomplete() {
		return unknown, nil
	}
	return absent, nil
}

// source records the error of a reader, which is not one of what it reads.
type source struct {
	io.ReaderAt
	err error
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Check returns an *UnsupportedError if the image certainly cannot be installed with any
// hint: its partition table is damaged, or it holds no system that is supported. An image
// in which nothing was recognized is not an error. Other errors are those of the image.
func Check(image io.ReaderAt, size int64) error {
	l, err := Read(image, size)
	if err != nil || l.Scheme == SchemeUnknown {
		return err
	}
	if !slices.ContainsFunc(l.Partitions, func(p Partition) bool { return p.Content.IsRootFilesystem() }) {
		return l.withoutRoot()
	}
	return nil
}
