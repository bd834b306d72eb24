// SPDX-License-Identifier: Apache-2.0

package bootfile

import (
	"bytes"
	"encoding/binary"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// form is a file format.
type form int

const (
	unknown     form = iota
	efiProgram       // PE/COFF
	efiKernel        // a Linux kernel that is a PE/COFF program as well
	bzImage          // a Linux kernel for x86 that is not
	cpioArchive      // an uncompressed initrd
	gzipFile
	packedFile // another compression that Linux unpacks
)

// file is what a file was identified as.
type file struct {
	form form
	// what describes a file, with its article.
	what string
	// architecture is as in "uname -m"; empty if the file does not contain it.
	architecture string
	// packed is set if this is the content of a gzip file.
	packed bool
}

func (f file) String() string {
	text := f.what
	if f.architecture != "" {
		text += " for " + f.architecture
	}
	if f.packed {
		text = "a gzip file that contains " + text
	}
	return text
}

// magics are the formats with a magic number at the beginning.
var magics = []struct {
	bytes string
	file
}{
	{"\x1f\x8b", file{form: gzipFile, what: "a gzip file"}},
	{"\xfd7zXZ\x00", file{form: packedFile, what: "an xz file"}},
	{"\x28\xb5\x2f\xfd", file{form: packedFile, what: "a zstd file"}},
	{"\x02\x21\x4c\x18", file{form: packedFile, what: "an lz4 file"}}, // the format of "lz4 -l"
	{"\x89LZO\x00", file{form: packedFile, what: "an lzo file"}},
	{"\x5d\x00\x00", file{form: packedFile, what: "an lzma file"}},
	{"BZh", file{form: packedFile, what: "a bzip2 file"}},
	{"070701", file{form: cpioArchive, what: "an initrd"}},
	{"070702", file{form: cpioArchive, what: "an initrd"}},
	{"\x04\x22\x4d\x18", file{what: "an lz4 file in the frame format, which Linux cannot unpack (compress it with \"lz4 -l\")"}},
	{"\x27\x05\x19\x56", file{what: "a U-Boot image"}},
	{"#!ipxe", file{what: "an iPXE script"}},
	{imageformat.QCOW2Magic, file{what: "a qcow2 image"}},
}

// identify identifies a file by its first bytes.
func identify(head []byte) file {
	if len(head) == 0 {
		return file{what: "an empty file"}
	}
	if f, ok := identifyProgram(head); ok {
		return f
	}
	for _, m := range magics {
		// Linux ignores zeros before an archive.
		begin := head
		if m.form != unknown {
			begin = bytes.TrimLeft(head, "\x00")
		}
		if !bytes.HasPrefix(begin, []byte(m.bytes)) {
			continue
		}
		f := m.file
		if f.form == cpioArchive && bytes.Contains(head[:min(len(head), 4096)], []byte("kernel/x86/microcode")) {
			f.architecture = "x86_64" // microcode precedes the initrd
		}
		return f
	}
	if what, _ := imageformat.Unsupported(head); what != "" {
		return file{what: what}
	}
	return file{what: "a file of an unknown format"}
}

// identifyProgram identifies kernels and other programs.
func identifyProgram(head []byte) (f file, ok bool) {
	architecture, isPE := peArchitecture(head)
	has := func(at int, magic string) bool { return len(head) > at && bytes.HasPrefix(head[at:], []byte(magic)) }
	// Documentation/arch/x86/boot.rst and arch/arm64/booting.rst of Linux; a kernel that
	// unpacks itself (zboot) has "zimg" after the first four bytes.
	x86, arm64 := has(0x1fe, "\x55\xaa") && has(0x202, "HdrS"), has(0x38, "ARM\x64")
	switch {
	case isPE && (x86 || arm64 || has(4, "zimg")):
		return file{form: efiKernel, what: "a Linux kernel", architecture: architecture}, true
	case isPE:
		return file{form: efiProgram, what: "a UEFI program", architecture: architecture}, true
	case x86:
		return file{form: bzImage, what: "a Linux kernel", architecture: bzImageArchitecture(head)}, true
	case arm64:
		return file{what: "a Linux kernel without EFI stub, which UEFI firmware cannot start,", architecture: "aarch64"}, true
	case has(0, "\x7fELF") && len(head) >= 20:
		return file{what: "an ELF program (vmlinux)", architecture: elfMachines[binary.LittleEndian.Uint16(head[18:])]}, true
	}
	return file{}, false
}

var elfMachines = map[uint16]string{3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}

// bzImageArchitecture returns the architecture of a kernel for x86 (boot.rst, xloadflags).
func bzImageArchitecture(head []byte) string {
	const version, flags, kernel64 = 0x206, 0x236, 1
	if len(head) < flags+2 || binary.LittleEndian.Uint16(head[version:]) < 0x020c || head[flags]&kernel64 == 0 {
		return "i386"
	}
	return "x86_64"
}

// peMachines are the machine types of PE/COFF.
var peMachines = map[uint16]string{
	0x014c: "i386", 0x01c0: "arm", 0x01c2: "arm", 0x01c4: "arm", 0x8664: "x86_64", 0xaa64: "aarch64",
	0x5064: "riscv64", 0x6264: "loongarch64", 0x0ebc: "EFI byte code",
}

// PEArchitecture returns the architecture of a PE/COFF program, as in "uname -m"; empty if
// it is not one or for an unknown machine.
func PEArchitecture(head []byte) string {
	architecture, _ := peArchitecture(head)
	return architecture
}

func peArchitecture(head []byte) (architecture string, ok bool) {
	const offset = 0x3c
	if len(head) < offset+4 || string(head[:2]) != "MZ" {
		return "", false
	}
	at := int64(binary.LittleEndian.Uint32(head[offset:]))
	if at+6 > int64(len(head)) || string(head[at:at+4]) != "PE\x00\x00" {
		return "", false
	}
	architecture, known := peMachines[binary.LittleEndian.Uint16(head[at+4:])]
	if !known {
		architecture = "an unknown machine"
	}
	return architecture, true
}
