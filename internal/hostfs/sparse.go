// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// NextData returns the first offset at or after at that may contain data, or size if
// only a hole follows. Without support for holes the whole file is data. It moves the
// file's offset.
func NextData(f *os.File, at, size int64) (int64, error) {
	off, err := f.Seek(at, unix.SEEK_DATA)
	switch {
	case err == nil:
		return off, nil
	case errors.Is(err, unix.ENXIO): // only a hole follows
		return size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return at, nil
	default:
		return 0, err
	}
}

// IsZero reports whether b contains only zeros, so that a hole can represent it.
func IsZero(b []byte) bool {
	for len(b) >= 32 {
		if binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
			binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[24:]) != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
