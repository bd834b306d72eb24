// SPDX-License-Identifier: Apache-2.0

// Package bootfile checks by their first bytes that kernels, initrds and boot programs are
// what they are declared to be, for the right architecture. A wrong file would otherwise
// only show as a machine that does not boot. The package does not verify that a file is
// complete or works; it reads at most HeadSize bytes, and as many of what they unpack to.
package bootfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// HeadSize is the number of bytes of a file that are read.
const HeadSize = 64 << 10

// Kind is what a file is used for.
type Kind string

// The kinds.
const (
	Kernel  Kind = "kernel"       // started by iPXE
	Initrd  Kind = "initrd"       // unpacked by Linux
	Program Kind = "boot program" // started by UEFI firmware
)

// Expectation is what a file must be. The zero value accepts any file.
type Expectation struct {
	Kind Kind
	// Architecture is "x86_64" or "aarch64".
	Architecture string
}

// MismatchError is returned for a file that is not what is expected.
type MismatchError struct {
	// Found and Want describe files, for example "an HTML page". They contain nothing of
	// the file's text.
	Found, Want string
}

func (e *MismatchError) Error() string { return fmt.Sprintf("it is %s, want %s", e.Found, e.Want) }

// Check returns nil if the file is what is expected, and a *MismatchError if it is not.
// Other errors are those of r.
func (e Expectation) Check(r io.ReaderAt) error {
	if e == (Expectation{}) {
		return nil
	}
	head := make([]byte, HeadSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	found := identify(head[:n])
	if found.form == gzipFile {
		found = identifyPacked(head[:n])
	}
	if e.accepts(found) {
		return nil
	}
	return &MismatchError{Found: found.String(), Want: e.String()}
}

// identifyPacked identifies a gzip file by what it contains.
func identifyPacked(head []byte) file {
	z, err := gzip.NewReader(bytes.NewReader(bytes.TrimLeft(head, "\x00")))
	if err != nil {
		return file{form: unknown, what: "a damaged gzip file"}
	}
	inner := make([]byte, HeadSize)
	n, _ := io.ReadFull(z, inner) // the input ends early
	found := identify(inner[:n])
	found.packed = true
	return found
}

func (e Expectation) accepts(f file) bool {
	switch e.Kind {
	case Kernel:
		// Only iPXE for aarch64 unpacks kernels, because these do not unpack themselves.
		bootable := f.form == efiKernel || f.form == efiProgram || f.form == bzImage
		return bootable && f.architecture == e.Architecture && (!f.packed || e.Architecture == "aarch64")
	case Initrd:
		return (f.form == cpioArchive || f.form == packedFile && !f.packed) && (f.architecture == "" || f.architecture == e.Architecture)
	case Program:
		return (f.form == efiProgram || f.form == efiKernel) && f.architecture == e.Architecture && !f.packed
	default:
		return false
	}
}

// String describes what is expected.
func (e Expectation) String() string {
	switch {
	case e.Kind == Kernel && e.Architecture == "aarch64":
		return "a Linux kernel for aarch64: an Image with EFI stub, also compressed with gzip"
	case e.Kind == Kernel:
		return fmt.Sprintf("a Linux kernel for %s: a bzImage, not compressed", e.Architecture)
	case e.Kind == Initrd:
		return fmt.Sprintf("an initrd for %s: a cpio archive, also compressed with gzip, xz, zstd, lz4, lzo, lzma or bzip2", e.Architecture)
	default:
		return fmt.Sprintf("a UEFI program for %s", e.Architecture)
	}
}
