// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"io"
	"net/http"
)

// span is a part of a file: the bytes from start to before end.
type span struct{ start, end int64 }

func (s span) whole(size int64) bool { return s.start == 0 && s.end >= size }

// describe returns what was sent of a file of size bytes.
func (s span) describe(size int64) string {
	return fmt.Sprintf("bytes %d to %d of %d", s.start, s.end, size)
}

// countingWriter counts the bytes of a file that were sent. It passes ReadFrom on
// to the ResponseWriter, because sendfile depends on it.
type countingWriter struct {
	http.ResponseWriter
	status int
	start  int64
	n      int64
	// before is called ahead of each piece of a file with what will then have been sent of
	// the file, between after it.
	before  func(span)
	between func()
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countingWriter) WriteHeader(status int) {
	c.status = status
	if status == http.StatusPartialContent {
		// A response with several ranges has no Content-Range and is not
		// counted.
		if _, err := fmt.Sscanf(c.Header().Get("Content-Range"), "bytes %d-", &c.start); err != nil {
			c.status = 0
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// pieceSize is the number of bytes between two checks of the connection.
const pieceSize = 256 << 10

func (c *countingWriter) ReadFrom(r io.Reader) (total int64, err error) {
	// http.ServeContent passes a file in a LimitedReader. Sendfile works through
	// one LimitedReader, but not through two.
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		n, err := io.Copy(c.ResponseWriter, r)
		c.n += n
		return n, err
	}
	for limited.N > 0 {
		piece := &io.LimitedReader{R: limited.R, N: min(limited.N, pieceSize)}
		c.before(c.spanWith(piece.N))
		n, err := io.Copy(c.ResponseWriter, piece)
		limited.N -= n
		c.n += n
		total += n
		if err != nil || n == 0 {
			return total, err
		}
		c.between()
	}
	return total, nil
}

func (c *countingWriter) span() span { return c.spanWith(0) }

// spanWith returns the part of the file that was sent, with the next more bytes.
func (c *countingWriter) spanWith(more int64) span {
	if c.status != http.StatusOK && c.status != http.StatusPartialContent {
		return span{}
	}
	return span{c.start, c.start + c.n + more}
}
