// SPDX-License-Identifier: Apache-2.0

package seed

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

// open yields the content.
func (c Content) open() (io.ReadCloser, error) {
	if c.Path == "" {
		return io.NopCloser(bytes.NewReader(c.Data)), nil
	}
	return os.Open(c.Path)
}

// settle takes out of the image what differs between two runs over the same
// files: the time and the system they ran on.
func settle(f *os.File) error {
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

// readBack compares the finished image with what went in: a file that changed
// meanwhile, or a name that the library changed after all, shows here and not
// in the guest.
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
		return failf("it holds %d files instead of %d", len(children), len(files))
	}
	for _, child := range children {
		content, ok := files[child.Name()]
		if !ok {
			return failf("it holds a file %q that nobody gave", child.Name())
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
			return failf("%s differs from what was given; it may have changed while it was read", child.Name())
		}
		if done(err) && done(err2) {
			return nil
		}
		if err != nil && !done(err) {
			return fmt.Errorf("reading back seed image: %w", err)
		}
		if err2 != nil && !done(err2) {
			return fmt.Errorf("reading back seed image: %w", err2)
		}
	}
}

func done(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
