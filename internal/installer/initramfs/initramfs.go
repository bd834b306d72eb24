// SPDX-License-Identifier: Apache-2.0

// Package initramfs packs the installer into a small initramfs archive that a
// machine loads after the distribution's initrd; the kernel unpacks both into one
// file system.
//
// The archive is not compressed: on an emulated machine, transferring it is
// faster than decompressing it.
package initramfs

import (
	"fmt"
	"io"
	"strings"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// The "newc" format of cpio (driver-api/early-userspace/buffer-format in the
// kernel's documentation): a header of hexadecimal fields, the name, and the
// data, each padded to 4 bytes.
const (
	magic   = "070701"
	trailer = "TRAILER!!!"

	modeFile       = 0o100000
	archivePadding = 512
	// maxInstaller keeps the archive far below the limit of the format (4 GiB) and
	// the memory of a small machine.
	maxInstaller = 256 << 20
)

// Write writes an archive that contains installer, a static program for the
// machine's architecture, at install.InitPath. The output depends only on the
// program.
func Write(w io.Writer, installer []byte) error {
	if len(installer) == 0 || len(installer) > maxInstaller {
		return fmt.Errorf("packing installer: its size of %d bytes is not between 1 and %d", len(installer), maxInstaller)
	}
	a := archive{w: w}
	a.entry(strings.TrimPrefix(installerapi.InitPath, "/"), modeFile|0o755, installer)
	a.entry(trailer, 0, nil)
	a.pad(archivePadding)
	if a.err != nil {
		return fmt.Errorf("writing installer archive: %w", a.err)
	}
	return nil
}

type archive struct {
	w     io.Writer
	n     int64
	inode int
	err   error
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
		a.n += int64(len(b))
	}
}

func (a *archive) pad(to int64) {
	if rest := a.n % to; rest != 0 {
		a.write(make([]byte, to-rest))
	}
}

func (a *archive) entry(name string, mode int, data []byte) {
	inode := 0
	if name != trailer {
		a.inode++
		inode = a.inode
	}
	fields := []int{inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	var h strings.Builder
	h.WriteString(magic)
	for _, f := range fields {
		fmt.Fprintf(&h, "%08X", f)
	}
	h.WriteString(name + "\x00")
	a.write([]byte(h.String()))
	a.pad(4)
	a.write(data)
	a.pad(4)
}
