// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces small files atomically: a reader, or the system
// after a power failure, sees the old or the new content, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces the content of path with data and sets its mode to exactly
// mode, regardless of the umask and of an existing file's mode. The directory
// must exist. The data is synced to disk when Write returns nil.
func Write(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	err = errors.Join(fill(f, data, mode), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := Rename(f.Name(), path); err != nil {
		_ = os.Remove(f.Name()) // already renamed when only the directory sync failed
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Rename renames a file or directory within its directory. The new name is
// synced to disk when Rename returns nil; the caller has synced the content.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func fill(f *os.File, data []byte, mode os.FileMode) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes a rename in dir survive a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
