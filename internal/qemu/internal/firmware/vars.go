// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// block is the granularity of holes in sparse files.
const block = 64 << 10

// Template returns the image that each machine needs a private copy of: the
// variables, or the whole of a combined image. ok is false for stateless firmware.
func (u UEFI) Template() (i Image, ok bool) {
	switch u.Mode {
	case Split:
		return u.Vars, true
	case Combined:
		return u.Code, true
	default:
		return Image{}, false
	}
}

// Instantiate copies the template to path with mode 0600, unless the file exists:
// starting a machine never resets its variables. The copy is atomic and sparse:
// zeroes, which are most of the 64 MiB of Arm machines, use no disk space.
func Instantiate(template Image, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("creating a UEFI variable store: %w", err)
	}
	in, err := os.Open(template.Path)
	if err != nil {
		return fmt.Errorf("creating a UEFI variable store: %w", err)
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)),
		renameio.WithPermissions(0o600), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("creating a UEFI variable store: %w", err)
	}
	defer func() { _ = out.Cleanup() }()
	if err := copySparse(out.File, in); err != nil {
		return fmt.Errorf("copying %s to %s: %w", template.Path, path, err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("creating a UEFI variable store: %w", err)
	}
	return nil
}

// copySparse copies in to the empty file out, with holes instead of zeroes.
func copySparse(out *os.File, in io.Reader) error {
	buf, zeroes := make([]byte, block), make([]byte, block)
	var size int64
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeroes[:n]) {
			if _, err := out.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}
