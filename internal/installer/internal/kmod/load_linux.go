// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// Loader inserts modules into the running kernel. It is not safe for
// concurrent use.
type Loader struct {
	index *Index
	root  string
	done  map[string]bool
}

// NewLoader returns a loader for an index that was opened with root as its root
// file system.
func NewLoader(index *Index, root string) *Loader {
	return &Loader{index: index, root: root, done: map[string]bool{}}
}

// Load inserts the module and its dependencies and returns the names of the
// inserted modules. A module that is already loaded or built in is not an error.
// Load tries each module at most once. A failed dependency does not stop it:
// the dependency may be optional, and if it is not, its dependant fails with the
// kernel's reason.
func (l *Loader) Load(name string) (loaded []string, err error) {
	var errs []error
	for _, m := range l.index.Plan(name) {
		if l.done[m.Name] {
			continue
		}
		l.done[m.Name] = true
		if err := l.insert(m); err != nil {
			errs = append(errs, fmt.Errorf("loading kernel module %s: %w", m.Name, err))
			continue
		}
		loaded = append(loaded, m.Name)
	}
	return loaded, errors.Join(errs...)
}

func (l *Loader) insert(m Module) error {
	f, err := os.Open(filepath.Join(l.root, m.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	compressed := !strings.HasSuffix(m.Path, ".ko")
	flags := 0
	if compressed {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), m.Options, flags)
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	if !compressed {
		return err
	}
	// Linux before 5.17, or one built for another compression format, cannot
	// decompress the module itself.
	image, derr := decompress(f, m.Path)
	if derr != nil {
		return errors.Join(err, derr)
	}
	if err := unix.InitModule(image, m.Options); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func decompress(f io.ReadSeeker, name string) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var r io.Reader
	var err error
	switch filepath.Ext(name) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		d, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err == nil {
			defer d.Close()
		}
		r = d
	default:
		return nil, fmt.Errorf("unknown compression format of %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", name, err)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, r); err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", name, err)
	}
	return b.Bytes(), nil
}
