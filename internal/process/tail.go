// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// Tail is up to maxBytes from the end of a log, from the start of a line on, and
// empty when there is nothing to read. What was there before offset is left out.
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
		offset = 0 // It was truncated since.
	}
	from := max(offset, size-maxBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return ""
	}
	return lines(b, from > offset)
}

// lines makes text of a piece of a log; a cut first line is left out.
func lines(b []byte, cut bool) string {
	if cut {
		if _, rest, found := bytes.Cut(b, []byte("\n")); found {
			b = rest
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}
