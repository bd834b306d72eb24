// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// depmod's binary index is big endian and starts with magic, version and the
// offset of the root node. The top bits of a node's offset are flags for the
// parts that the node has.
const (
	binaryMagic   = 0xB007F457
	binaryMajor   = 2
	nodePrefix    = 0x80000000
	nodeValues    = 0x40000000
	nodeChildren  = 0x20000000
	nodeOffset    = 0x0FFFFFFF
	maxIndexDepth = 1024
)

var errBinaryIndex = errors.New("damaged index")

// readBinary calls add for each key and value of a binary index.
func (x *Index) readBinary(root fs.FS, name string, add func(key, value string)) error {
	data, err := fs.ReadFile(root, path.Join(x.dir, name))
	if err != nil {
		return err
	}
	be := binary.BigEndian
	if len(data) < 12 || be.Uint32(data) != binaryMagic || be.Uint32(data[4:])>>16 != binaryMajor {
		return fmt.Errorf("reading %s: %w: unknown magic or version", name, errBinaryIndex)
	}
	w := binaryWalk{data: data, add: add}
	if err := w.node(be.Uint32(data[8:]), nil, 0); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

type binaryWalk struct {
	data []byte
	add  func(key, value string)
}

func (w *binaryWalk) node(ref uint32, key []byte, depth int) error {
	at := int(ref & nodeOffset)
	if depth > maxIndexDepth {
		return fmt.Errorf("%w: too deep", errBinaryIndex)
	}
	if ref&nodePrefix != 0 {
		s, next, err := w.cstring(at)
		if err != nil {
			return err
		}
		key, at = append(key[:len(key):len(key)], s...), next
	}
	if ref&nodeChildren != 0 {
		if at+2 > len(w.data) || w.data[at+1] < w.data[at] {
			return fmt.Errorf("%w: children at %d", errBinaryIndex, at)
		}
		first, last := int(w.data[at]), int(w.data[at+1])
		at += 2
		for c := first; c <= last; c++ {
			child, err := w.uint32(at)
			if err != nil {
				return err
			}
			at += 4
			if child == 0 {
				continue
			}
			if err := w.node(child, append(key[:len(key):len(key)], byte(c)), depth+1); err != nil {
				return err
			}
		}
	}
	if ref&nodeValues == 0 {
		return nil
	}
	count, err := w.uint32(at)
	if err != nil {
		return err
	}
	at += 4
	for range count {
		s, next, err := w.cstring(at + 4) // after the priority
		if err != nil {
			return err
		}
		w.add(string(key), string(s))
		at = next
	}
	return nil
}

func (w *binaryWalk) uint32(at int) (uint32, error) {
	if at < 0 || at+4 > len(w.data) {
		return 0, fmt.Errorf("%w: ends at %d", errBinaryIndex, at)
	}
	return binary.BigEndian.Uint32(w.data[at:]), nil
}

func (w *binaryWalk) cstring(at int) ([]byte, int, error) {
	if at >= 0 && at < len(w.data) {
		if n := bytes.IndexByte(w.data[at:], 0); n >= 0 {
			return w.data[at : at+n], at + n + 1, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: string at %d", errBinaryIndex, at)
}
