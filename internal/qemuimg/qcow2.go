// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// Fields and limits of the qcow2 header, see docs/interop/qcow2.txt of QEMU.
const (
	qcowV2Header   = 72
	qcowV3Header   = 104
	qcowMaxHeader  = 4096 // limit of this package; real headers have at most 112 bytes
	qcowMinCluster = 9
	qcowMaxCluster = 21
	qcowMaxL1      = 32 << 20 // bytes, as in QEMU
	qcowMaxRefs    = 8 << 20  // bytes, as in QEMU

	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
	featuresKnown      = featureDirty | featureCompression | featureExtendedL2

	extEnd      = 0
	extBacking  = 0xE2792ACA
	extDataFile = 0x44415441
	extLUKS     = 0x0537BE77
)

var errTruncated = errors.New("the file ends inside its header")

// qcowHeader is the parsed header of a qcow2 file.
type qcowHeader struct {
	Version     int
	VirtualSize int64
	Backing     bool
	DataFile    bool
	Encrypted   bool
	Corrupt     bool
	Unknown     uint64 // unknown incompatible features
	Snapshots   int
}

// refusal returns the reason for rejecting the image, or "" if it is accepted.
func (h *qcowHeader) refusal() string {
	switch {
	case h.Backing:
		return "it has a backing file; flatten it with qemu-img convert"
	case h.DataFile:
		return "it has an external data file; flatten it with qemu-img convert"
	case h.Encrypted:
		return "it is encrypted; decrypt it with qemu-img convert"
	case h.Corrupt:
		return "it is marked as corrupt; repair it with qemu-img check -r all, or download it again"
	case h.Unknown != 0:
		return fmt.Sprintf("it uses unknown features (%#x); convert it with qemu-img convert -o compat=1.1", h.Unknown)
	default:
		return ""
	}
}

// parseQCOW2 reads and validates the header of a qcow2 file of the given size. It
// accepts all features; refusal decides which of them are rejected.
func parseQCOW2(r io.ReaderAt, fileSize int64) (*qcowHeader, error) {
	b := make([]byte, qcowMaxHeader)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b = b[:n]
	if !bytes.HasPrefix(b, []byte(imageformat.QCOW2Magic)) {
		return nil, errors.New("it does not start with the qcow2 magic number")
	}
	if len(b) < qcowV2Header {
		return nil, errTruncated
	}
	be := binary.BigEndian
	h := &qcowHeader{Version: int(be.Uint32(b[4:]))}
	length := qcowV2Header
	switch h.Version {
	case 2:
	case 3:
		if len(b) < qcowV3Header {
			return nil, errTruncated
		}
		if length, err = h.parseV3(b); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("it has version %d of the qcow2 format, only 2 and 3 are supported", h.Version)
	}
	if err := h.parseV2(b, fileSize); err != nil {
		return nil, err
	}
	return h, h.parseExtensions(b[length:])
}

func (h *qcowHeader) parseV2(b []byte, fileSize int64) error {
	be := binary.BigEndian
	h.Backing = be.Uint64(b[8:]) != 0 || be.Uint32(b[16:]) != 0
	bits := be.Uint32(b[20:])
	if bits < qcowMinCluster || bits > qcowMaxCluster {
		return fmt.Errorf("its clusters have an invalid size of 2^%d bytes", bits)
	}
	size := be.Uint64(b[24:])
	if size == 0 || size > 1<<62 {
		return fmt.Errorf("its virtual size of %d bytes is invalid", size)
	}
	h.VirtualSize = int64(size)
	h.Encrypted = h.Encrypted || be.Uint32(b[32:]) != 0
	h.Snapshots = int(be.Uint32(b[60:]))
	l1, refs := int64(be.Uint32(b[36:]))*8, int64(be.Uint32(b[56:]))<<bits
	if l1 > qcowMaxL1 || refs > qcowMaxRefs {
		return fmt.Errorf("its L1 and reference count tables of %d and %d bytes are too large", l1, refs)
	}
	// An L1 entry refers to an L2 table of one cluster with 8-byte entries (16-byte
	// with extended L2), each for one cluster. A smaller L1 table cannot cover the
	// disk.
	if perEntry := uint64(1) << (2*bits - 3); uint64(l1/8) < (size+perEntry-1)/perEntry {
		return fmt.Errorf("its L1 table is too small for %d bytes", size)
	}
	for _, table := range []struct {
		name string
		at   uint64
		size int64
	}{{"L1 table", be.Uint64(b[40:]), l1}, {"reference count table", be.Uint64(b[48:]), refs}} {
		if table.at&(1<<bits-1) != 0 || table.at == 0 || table.at > uint64(fileSize) || int64(table.at)+table.size > fileSize {
			return fmt.Errorf("its %s has an invalid offset %d in a file of %d bytes", table.name, table.at, fileSize)
		}
	}
	return nil
}

// parseV3 parses the fields of version 3 and returns the offset of the header
// extensions.
func (h *qcowHeader) parseV3(b []byte) (int, error) {
	be := binary.BigEndian
	features := be.Uint64(b[72:])
	h.Corrupt = features&featureCorrupt != 0
	h.DataFile = features&featureDataFile != 0
	h.Unknown = features &^ (featuresKnown | featureCorrupt | featureDataFile)
	if order := be.Uint32(b[96:]); order > 6 {
		return 0, fmt.Errorf("its reference counts have an invalid width of 2^%d bits", order)
	}
	length := be.Uint32(b[100:])
	if length < qcowV3Header || length%8 != 0 || int(length) > len(b) {
		return 0, fmt.Errorf("its header length of %d bytes is invalid", length)
	}
	return int(length), nil
}

// parseExtensions parses the header extensions, up to the one of type 0. Version
// 2 files without extensions have zeros there.
func (h *qcowHeader) parseExtensions(b []byte) error {
	for len(b) >= 8 {
		typ, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		switch typ {
		case extEnd:
			return nil
		case extBacking:
			h.Backing = true
		case extDataFile:
			h.DataFile = true
		case extLUKS:
			h.Encrypted = true
		}
		padded := (int64(n) + 7) &^ 7
		if padded > int64(len(b)-8) {
			return fmt.Errorf("a header extension has an invalid length of %d bytes", n)
		}
		b = b[8+padded:]
	}
	return errors.New("its header extensions are not terminated")
}
