// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes small files so that a reader, and a machine that
// loses power, sees the old content or the new, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path by data with exactly mode, regardless of the umask and of
// the mode of a file that was there. The directory must exist. Data is on disk
// when it returns nil.
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
		_ = os.Remove(f.Name()) // gone when only the last step failed
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Rename gives a file or directory another name in the same directory. The new
// name is on disk when it returns nil; what is inside, the caller has synced.
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

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
