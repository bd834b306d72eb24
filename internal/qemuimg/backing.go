// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// maxBackingName is the limit of the qcow2 format, in bytes.
const maxBackingName = 1023

// ErrDamagedHeader means that the header of a qcow2 file is damaged, so that QEMU cannot
// open the file either.
var ErrDamagedHeader = errors.New("its header is damaged")

// BackingFile returns the path of the base of an overlay as its header records it, or ""
// if the file has no base or is not a qcow2 file. It runs no program and works while
// QEMU uses the file. The error wraps ErrDamagedHeader if the header is damaged.
func BackingFile(path string) (base string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the base of an overlay: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var head [20]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the base of overlay %s: %w", path, err)
	}
	if !bytes.HasPrefix(head[:], []byte(imageformat.QCOW2Magic)) {
		return "", nil
	}
	offset, length := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if offset == 0 {
		return "", nil
	}
	if offset > 1<<qcowMaxCluster || length > maxBackingName {
		return "", fmt.Errorf("reading the base of overlay %s: %w", path, ErrDamagedHeader)
	}
	name := make([]byte, length)
	if _, err := f.ReadAt(name, int64(offset)); errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the base of overlay %s: %w", path, ErrDamagedHeader)
	} else if err != nil {
		return "", fmt.Errorf("reading the base of overlay %s: %w", path, err)
	}
	return string(name), nil
}
