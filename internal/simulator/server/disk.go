// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// What a simulated machine has installed is stored in the file of its disk, so that a
// disk that is replaced by a blank one is blank, and a retained one is not. There are
// two slots at the beginning. A write replaces the older one, so that the newer one
// survives a write that is cut off. A slot is
//
//	magic     16 bytes
//	sequence   8 bytes, big endian; the slot with the higher one is current
//	length     8 bytes, big endian
//	digest    32 bytes, SHA-256 of the above without the magic, and of the content
//	content
const (
	slotSize   = 128 << 10
	slotHeader = 64
	// maxContent is the longest content of a disk.
	maxContent = slotSize - slotHeader
)

var slotMagic = []byte("PXELAB-SIM-DISK\n")

// disk is a raw disk file. It is opened for each access: its owner may replace it while
// the machine is off.
type disk struct{ path string }

// Load returns the stored content, nil if the disk is blank or holds anything that
// Store has not written.
func (d disk) Load() ([]byte, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, fmt.Errorf("reading a simulated disk: %w", err)
	}
	defer f.Close()
	content, _, err := current(f)
	return content, err
}

// Store replaces the content. It has reached the disk when Store returns.
func (d disk) Store(content []byte) (err error) {
	if len(content) > maxContent {
		return fmt.Errorf("writing a simulated disk: the content has %d bytes, at most %d are allowed", len(content), maxContent)
	}
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("writing a simulated disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("writing a simulated disk: %w", err)
	}
	if info.Size() < 2*slotSize {
		return fmt.Errorf("writing a simulated disk: %s has %d bytes, at least %d are needed", d.path, info.Size(), 2*slotSize)
	}
	_, sequence, err := current(f)
	if err != nil {
		return err
	}
	sequence++
	if _, err := f.WriteAt(encodeSlot(sequence, content), int64(sequence%2)*slotSize); err != nil {
		return fmt.Errorf("writing a simulated disk: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing a simulated disk: %w", err)
	}
	return nil
}

// Size returns the size of the disk, 0 if it cannot be determined.
func (d disk) Size() int64 {
	info, err := os.Stat(d.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// current returns the content of the current slot and its sequence, nil and 0 if the
// disk has none.
func current(f io.ReaderAt) (content []byte, sequence uint64, err error) {
	for slot := range int64(2) {
		raw := make([]byte, slotHeader)
		n, err := f.ReadAt(raw, slot*slotSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("reading a simulated disk: %w", err)
		}
		length, ok := contentLength(raw[:n])
		if !ok {
			continue
		}
		raw = append(raw, make([]byte, length)...)
		if n, err = f.ReadAt(raw, slot*slotSize); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("reading a simulated disk: %w", err)
		}
		if c, s, ok := decodeSlot(raw[:n]); ok && s > sequence {
			content, sequence = c, s
		}
	}
	return content, sequence, nil
}

func encodeSlot(sequence uint64, content []byte) []byte {
	slot := make([]byte, slotHeader, slotHeader+len(content))
	copy(slot, slotMagic)
	binary.BigEndian.PutUint64(slot[16:], sequence)
	binary.BigEndian.PutUint64(slot[24:], uint64(len(content)))
	digest := slotDigest(slot, content)
	copy(slot[32:], digest[:])
	return append(slot, content...)
}

// contentLength returns the length of the content that a slot's header announces.
func contentLength(header []byte) (int, bool) {
	if len(header) < slotHeader || !bytes.HasPrefix(header, slotMagic) {
		return 0, false
	}
	length := binary.BigEndian.Uint64(header[24:])
	return int(min(length, maxContent)), length <= maxContent
}

// decodeSlot returns what a slot holds. It is not ok if the slot is blank or damaged.
func decodeSlot(slot []byte) (content []byte, sequence uint64, ok bool) {
	length, ok := contentLength(slot)
	if !ok || len(slot) < slotHeader+length {
		return nil, 0, false
	}
	content = slot[slotHeader : slotHeader+length]
	digest := slotDigest(slot, content)
	if !bytes.Equal(digest[:], slot[32:slotHeader]) {
		return nil, 0, false
	}
	return content, binary.BigEndian.Uint64(slot[16:]), true
}

func slotDigest(slot, content []byte) [sha256.Size]byte {
	return sha256.Sum256(append(bytes.Clone(slot[16:32]), content...))
}
