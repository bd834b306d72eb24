// SPDX-License-Identifier: Apache-2.0

package cidata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kdomanski/iso9660"
)

// Offsets in the primary volume descriptor, ECMA-119 8.4.
const (
	descriptorAt  = 16 * sectorSize
	systemID      = descriptorAt + 8
	systemIDSize  = 32
	dates         = descriptorAt + 813 // creation, modification, expiration, effective
	dateSize      = 17
	dateCount     = 4
	blankDate     = "0000000000000000\x00" // "not specified", 8.4.26.1
	systemIDValue = "LINUX"
)

// open opens the content for reading.
func (c Content) open() (io.ReadCloser, error) {
	if c.Path == "" {
		return io.NopCloser(bytes.NewReader(c.Data)), nil
	}
	return os.Open(c.Path)
}

// normalize makes the image reproducible: it overwrites the fields that contain
// the time and the operating system.
func normalize(f *os.File) error {
	id := bytes.Repeat([]byte{' '}, systemIDSize)
	copy(id, systemIDValue)
	if _, err := f.WriteAt(id, systemID); err != nil {
		return fmt.Errorf("seed image: %w", err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte(blankDate), dateCount), dates); err != nil {
		return fmt.Errorf("seed image: %w", err)
	}
	return nil
}

// readBack compares the finished image with files. It detects files that changed
// during the build and names that the library changed, which would otherwise
// fail in the guest.
func readBack(f *os.File, files map[string]Content) error {
	img, err := iso9660.OpenImage(f)
	if err != nil {
		return fmt.Errorf("reading back seed image: %w", err)
	}
	root, err := img.RootDir()
	if err != nil {
		return fmt.Errorf("reading back seed image: %w", err)
	}
	children, err := root.GetChildren()
	if err != nil {
		return fmt.Errorf("reading back seed image: %w", err)
	}
	if len(children) != len(files) {
		return failf("the image contains %d files, want %d", len(children), len(files))
	}
	for _, child := range children {
		content, ok := files[child.Name()]
		if !ok {
			return failf("the image contains an unexpected file %q", child.Name())
		}
		if err := compare(child, content); err != nil {
			return err
		}
	}
	return nil
}

func compare(child *iso9660.File, content Content) error {
	want, err := content.open()
	if err != nil {
		return fmt.Errorf("reading back seed image: %w", err)
	}
	defer func() { _ = want.Close() }()
	got := child.Reader()
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(got, a)
		m, err2 := io.ReadFull(want, b)
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return failf("%s in the image differs from its source, which may have changed during the build; retry", child.Name())
		}
		if isEOF(err) && isEOF(err2) {
			return nil
		}
		if err != nil && !isEOF(err) {
			return fmt.Errorf("reading back seed image: %w", err)
		}
		if err2 != nil && !isEOF(err2) {
			return fmt.Errorf("reading back seed image: %w", err2)
		}
	}
}

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
