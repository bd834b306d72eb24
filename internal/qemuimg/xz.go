// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader decompresses the .xz format. The container reader of the library
// allocates as much memory as a file's header requests, up to 4 GiB; this one
// rejects more than maxWindow before allocating any. It verifies no checks of
// the format, because its input was verified by digest.
//
// The comments cite sections of https://tukaani.org/xz/xz-file-format.txt.
type xzReader struct {
	in    countedBytes
	block io.Reader // nil between blocks
	// check is the size of the check after each block.
	check int64
	// streams counts the streams that were read completely.
	streams int
	err     error
}

var (
	xzMagic  = []byte("\xfd7zXZ\x00")
	errXZBad = errors.New("damaged xz data")
)

// xzCheckSizes maps check types to sizes in bytes (2.1.1.2).
var xzCheckSizes = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

const xzLZMA2 = 0x21

// byteSource is implemented by bufio.Reader.
type byteSource interface {
	io.Reader
	io.ByteReader
}

// countedBytes counts the bytes read, because a stream is aligned to four bytes
// from its start.
type countedBytes struct {
	byteSource
	n int64
}

func (c *countedBytes) Read(b []byte) (int, error) {
	n, err := c.byteSource.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *countedBytes) ReadByte() (byte, error) {
	b, err := c.byteSource.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// newXZReader reads the first header, so that it fails at once if r is not xz
// data.
func newXZReader(r byteSource) (*xzReader, error) {
	x := &xzReader{in: countedBytes{byteSource: r}}
	_, err := x.streamHeader()
	return x, err
}

// Read implements io.Reader.
func (x *xzReader) Read(b []byte) (int, error) {
	for x.err == nil {
		if x.block == nil {
			x.err = x.next()
			continue
		}
		n, err := x.block.Read(b)
		if errors.Is(err, io.EOF) {
			x.block, err = nil, x.endBlock()
		}
		x.err = whole(err)
		if n > 0 {
			return n, nil
		}
	}
	return 0, x.err
}

// whole turns io.EOF into io.ErrUnexpectedEOF, where the data must not end.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads a block header, or skips the index and reads the next stream
// header. It returns io.EOF at the end of the last stream.
func (x *xzReader) next() error {
	size, err := x.in.ReadByte()
	if err != nil {
		return whole(err)
	}
	if size != 0 {
		return x.blockHeader(size)
	}
	if err := x.skipIndex(); err != nil {
		return whole(err)
	}
	x.streams++
	more, err := x.streamHeader()
	if err == nil && !more {
		return io.EOF
	}
	return err
}

// streamHeader reads stream padding (2.2) and a stream header (2.1.1). more is
// false at the end of the data.
func (x *xzReader) streamHeader() (more bool, err error) {
	var header [12]byte
	for {
		n, err := io.ReadFull(&x.in, header[:4])
		if n == 0 && errors.Is(err, io.EOF) && x.streams > 0 {
			return false, nil
		}
		if err != nil {
			return false, whole(err)
		}
		if x.streams == 0 || header[0] != 0 {
			break
		}
		if !bytes.Equal(header[:4], make([]byte, 4)) {
			return false, errXZBad
		}
	}
	if _, err := io.ReadFull(&x.in, header[4:]); err != nil {
		return false, whole(err)
	}
	if !bytes.HasPrefix(header[:], xzMagic) || header[6] != 0 || header[7] > 15 {
		return false, errXZBad
	}
	x.check = xzCheckSizes[header[7]]
	return true, nil
}

// blockHeader reads a block header (3.1) and sets up the decoder of its data.
func (x *xzReader) blockHeader(size byte) error {
	header := make([]byte, int(size)*4+3) // without the size field, with the CRC32
	if _, err := io.ReadFull(&x.in, header); err != nil {
		return whole(err)
	}
	flags := header[0]
	if flags&0x3f != 0 {
		return fmt.Errorf("%w: its compression filters are not supported", errXZBad)
	}
	rest := header[1 : len(header)-4]
	numbers := 2 // the filter's ID and the length of its properties
	for _, present := range []byte{0x40, 0x80} {
		if flags&present != 0 {
			numbers++
		}
	}
	var last [2]uint64
	for range numbers {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return errXZBad
		}
		last = [2]uint64{last[1], v}
		rest = rest[n:]
	}
	if last != [2]uint64{xzLZMA2, 1} || len(rest) < 1 {
		return fmt.Errorf("%w: its compression filters are not supported", errXZBad)
	}
	dictionary, err := lzma.DecodeDictCap(rest[0])
	if err != nil {
		return fmt.Errorf("%w: %w", errXZBad, err)
	}
	if dictionary > maxWindow {
		return fmt.Errorf("decompressing it requires %d bytes of memory, at most %d are allowed; compress it with a smaller dictionary",
			dictionary, maxWindow)
	}
	x.block, err = lzma.Reader2Config{DictCap: int(max(dictionary, lzma.MinDictCap))}.NewReader2(&x.in)
	return err
}

// endBlock skips the block padding (3.3) and the check (3.4).
func (x *xzReader) endBlock() error {
	if err := x.align(); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, &x.in, x.check)
	return err
}

func (x *xzReader) align() error {
	_, err := io.CopyN(io.Discard, &x.in, -x.in.n&3)
	return err
}

// skipIndex skips the rest of the index (4) and the stream footer (2.1.2).
func (x *xzReader) skipIndex() error {
	records, err := binary.ReadUvarint(&x.in)
	if err != nil {
		return err
	}
	for range records {
		for range 2 {
			if _, err := binary.ReadUvarint(&x.in); err != nil {
				return err
			}
		}
	}
	if err := x.align(); err != nil {
		return err
	}
	const sum = 4
	var footer [sum + 12]byte
	if _, err := io.ReadFull(&x.in, footer[:]); err != nil {
		return err
	}
	if string(footer[len(footer)-2:]) != "YZ" {
		return errXZBad
	}
	return nil
}
