// SPDX-License-Identifier: Apache-2.0

package bootfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/bootfile/bootfiletest"
)

func packed(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(content)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func archive(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&tar.Header{Name: "vmlinuz", Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// patched returns a copy of a file with other bytes at an offset.
func patched(content []byte, at int, text string) []byte {
	content = bytes.Clone(content)
	copy(content[at:], text)
	return content
}

func TestCheck(t *testing.T) {
	const x86, arm = "x86_64", "aarch64"
	kernelX86, kernelArm := bootfiletest.Kernel(x86, "text"), bootfiletest.Kernel(arm, "text")
	bios := patched(kernelX86, 0, "\xea\x05") // a bzImage without EFI stub
	cpio := bootfiletest.Initrd("00000000")
	microcode := append(bytes.Repeat([]byte("0"), 104), "kernel/x86/microcode/GenuineIntel.bin\x00"...)
	elf := []byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 11) + "\x3e\x00")
	page := []byte("<!DOCTYPE html><html><title>404</title></html>")
	large := append(bytes.Clone(kernelArm), make([]byte, 2*HeadSize)...)
	for name, c := range map[string]struct {
		kind         Kind
		architecture string
		content      []byte
		want         string // part of what was found; empty if the file is accepted
	}{
		"kernel":                        {Kernel, x86, kernelX86, ""},
		"kernel without EFI stub":       {Kernel, x86, bios, ""},
		"32-bit kernel":                 {Kernel, x86, patched(bios, 0x236, "\x00"), "a Linux kernel for i386"},
		"old kernel":                    {Kernel, x86, patched(bios, 0x206, "\x0b\x02"), "a Linux kernel for i386"},
		"kernel for another machine":    {Kernel, x86, kernelArm, "a Linux kernel for aarch64"},
		"kernel for x86 on arm":         {Kernel, arm, kernelX86, "a Linux kernel for x86_64"},
		"kernel for arm":                {Kernel, arm, kernelArm, ""},
		"gzip'd kernel for arm":         {Kernel, arm, packed(t, kernelArm), ""},
		"large gzip'd kernel":           {Kernel, arm, packed(t, large), ""},
		"gzip'd kernel for x86":         {Kernel, x86, packed(t, kernelX86), "a gzip file that contains a Linux kernel for x86_64"},
		"gzip'd kernel for x86 on arm":  {Kernel, arm, packed(t, kernelX86), "a gzip file that contains a Linux kernel for x86_64"},
		"gzip'd tar":                    {Kernel, arm, packed(t, archive(t)), "a gzip file that contains a tar archive"},
		"damaged gzip":                  {Kernel, arm, []byte("\x1f\x8b\x00"), "a damaged gzip file"},
		"truncated gzip":                {Kernel, arm, packed(t, kernelArm)[:14], "a gzip file that contains"},
		"zboot kernel":                  {Kernel, arm, patched(bootfiletest.Program(arm, ""), 4, "zimg"), ""},
		"unified kernel image":          {Kernel, x86, bootfiletest.Program(x86, ""), ""},
		"Image without EFI stub":        {Kernel, arm, patched(kernelArm, 0, "\x00\x00"), "without EFI stub"},
		"kernel for riscv":              {Kernel, arm, patched(kernelArm, 0x84, "\x64\x50"), "a Linux kernel for riscv64"},
		"kernel for an unknown machine": {Kernel, arm, patched(kernelArm, 0x84, "\x01\x00"), "an unknown machine"},
		"vmlinux":                       {Kernel, x86, elf, "an ELF program (vmlinux) for x86_64"},
		"initrd as kernel":              {Kernel, x86, cpio, "an initrd"},
		"page as kernel":                {Kernel, x86, page, "an HTML page"},
		"tar as kernel":                 {Kernel, x86, archive(t), "a tar archive"},
		"qcow2 as kernel":               {Kernel, x86, []byte("QFI\xfb\x00\x00\x00\x03"), "a qcow2 image"},
		"nothing":                       {Kernel, x86, nil, "an empty file"},
		"text":                          {Kernel, x86, []byte("a kernel"), "unknown format"},
		"header beyond the end":         {Kernel, x86, patched(kernelX86, 0x3c, "\xff\xff\xff\xff")[:0x200], "unknown format"},

		"initrd":                  {Initrd, x86, cpio, ""},
		"initrd after zeros":      {Initrd, x86, append(make([]byte, 512), cpio...), ""},
		"gzip after zeros":        {Initrd, x86, append(make([]byte, 512), packed(t, cpio)...), ""},
		"initrd with CRCs":        {Initrd, arm, patched(cpio, 5, "2"), ""},
		"gzip'd initrd":           {Initrd, arm, packed(t, cpio), ""},
		"xz":                      {Initrd, x86, []byte("\xfd7zXZ\x00\x00"), ""},
		"zstd":                    {Initrd, x86, []byte("\x28\xb5\x2f\xfd\x04"), ""},
		"lz4":                     {Initrd, x86, []byte("\x02\x21\x4c\x18\x04"), ""},
		"lzma":                    {Initrd, x86, []byte("\x5d\x00\x00\x80\x00"), ""},
		"bzip2":                   {Initrd, x86, []byte("BZh9"), ""},
		"lzo":                     {Initrd, x86, []byte("\x89LZO\x00\x0d"), ""},
		"lz4 frame":               {Initrd, x86, []byte("\x04\x22\x4d\x18\x04"), "lz4 -l"},
		"microcode":               {Initrd, x86, append(bytes.Clone(cpio), microcode...), ""},
		"microcode on another":    {Initrd, arm, append(bytes.Clone(cpio), microcode...), "an initrd for x86_64"},
		"gzip'd gzip":             {Initrd, x86, packed(t, packed(t, cpio)), "a gzip file that contains a gzip file"},
		"gzip'd tar as initrd":    {Initrd, x86, packed(t, archive(t)), "contains a tar archive"},
		"kernel as initrd":        {Initrd, x86, kernelX86, "a Linux kernel for x86_64"},
		"gzip'd kernel as initrd": {Initrd, arm, packed(t, kernelArm), "contains a Linux kernel for aarch64"},
		"page as initrd":          {Initrd, x86, page, "an HTML page"},
		"U-Boot image":            {Initrd, arm, []byte("\x27\x05\x19\x56...."), "a U-Boot image"},
		"zeros":                   {Initrd, x86, make([]byte, 4096), "unknown format"},
		"program":                 {Program, x86, bootfiletest.Program(x86, "iPXE"), ""},
		"program for arm":         {Program, arm, bootfiletest.Program(arm, "iPXE"), ""},
		"program for another":     {Program, arm, bootfiletest.Program(x86, "iPXE"), "a UEFI program for x86_64"},
		"gzip'd program":          {Program, arm, packed(t, bootfiletest.Program(arm, "iPXE")), "a gzip file"},
		"script":                  {Program, x86, []byte("#!ipxe\n"), "an iPXE script"},
		"page as program":         {Program, x86, page, "an HTML page"},
		"BIOS kernel as program":  {Program, x86, bios, "a Linux kernel for x86_64"},
		"unknown kind":            {"floppy", x86, cpio, "an initrd"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Expectation{Kind: c.kind, Architecture: c.architecture}.Check(bytes.NewReader(c.content))
			var mismatch *MismatchError
			switch {
			case c.want == "":
				if err != nil {
					t.Errorf("got error %v, want none", err)
				}
			case !errors.As(err, &mismatch):
				t.Errorf("got %v, want a *MismatchError", err)
			case !strings.Contains(mismatch.Found, c.want):
				t.Errorf("found %q, want it to contain %q", mismatch.Found, c.want)
			}
		})
	}
	if err := (Expectation{}).Check(bytes.NewReader(page)); err != nil {
		t.Errorf("without an expectation: got error %v, want none", err)
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestCheckReturnsErrorsOfReader(t *testing.T) {
	if err := (Expectation{Kind: Kernel}).Check(broken{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v, want %v", err, io.ErrClosedPipe)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(bootfiletest.Kernel("x86_64", "text"))
	f.Add(bootfiletest.Kernel("aarch64", "text"))
	f.Add(packed(f, bootfiletest.Kernel("aarch64", "text")))
	f.Add(bootfiletest.Initrd("text"))
	f.Add(bootfiletest.Program("x86_64", "text"))
	f.Add(archive(f))
	f.Fuzz(func(t *testing.T, content []byte) {
		accepted := map[string]bool{}
		for _, kind := range []Kind{Kernel, Initrd, Program} {
			for _, architecture := range []string{"x86_64", "aarch64"} {
				err := Expectation{Kind: kind, Architecture: architecture}.Check(bytes.NewReader(content))
				var mismatch *MismatchError
				if err != nil && (!errors.As(err, &mismatch) || mismatch.Found == "" || mismatch.Want == "") {
					t.Errorf("got %v, want nil or a complete *MismatchError", err)
				}
				accepted[string(kind)+architecture] = err == nil
			}
		}
		if accepted["kernelx86_64"] && accepted["kernelaarch64"] {
			t.Error("got a kernel for both architectures")
		}
		if accepted["kernelx86_64"] && accepted["initrdx86_64"] {
			t.Error("got a kernel that is an initrd")
		}
	})
}
