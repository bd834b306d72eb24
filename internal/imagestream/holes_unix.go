// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin

package imagestream

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func seekData(f *os.File, at, size int64) (int64, error) {
	off, err := f.Seek(at, unix.SEEK_DATA)
	switch {
	case err == nil:
		return off, nil
	case errors.Is(err, unix.ENXIO): // a hole up to the end
		return size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		return at, nil
	default:
		return 0, err
	}
}
