// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// Tail returns up to maxBytes from the end of a log, starting at a line boundary
// and not before offset. It returns "" if the log is empty or cannot be read.
func Tail(path string, offset, maxBytes int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	if offset > size {
		offset = 0 // The file was truncated.
	}
	from := max(offset, size-maxBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return ""
	}
	return lines(b, from > offset)
}

// lines returns a section of a log as text, without its first line if that is cut.
func lines(b []byte, cut bool) string {
	if cut {
		if _, rest, found := bytes.Cut(b, []byte("\n")); found {
			b = rest
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}
