// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// span is a part of a file: the bytes from start to before end.
type span struct{ start, end int64 }

func (s span) whole(size int64) bool { return s.start == 0 && s.end >= size }

// countingWriter counts the bytes of a file that went out. It hands ReadFrom
// down, on which sendfile depends.
type countingWriter struct {
	http.ResponseWriter
	status int
	start  int64
	n      int64
	// between is called after each piece of a file.
	between func()
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countingWriter) WriteHeader(status int) {
	c.status = status
	if status == http.StatusPartialContent {
		// Several ranges in one answer have no Content-Range and count for
		// nothing.
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

// pieceSize is how much goes out between two looks at the connection.
const pieceSize = 256 << 10

func (c *countingWriter) ReadFrom(r io.Reader) (total int64, err error) {
	// http.ServeContent hands a limited file down; sendfile sees through one
	// limit, not through two.
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		n, err := io.Copy(c.ResponseWriter, r)
		c.n += n
		return n, err
	}
	for limited.N > 0 {
		piece := &io.LimitedReader{R: limited.R, N: min(limited.N, pieceSize)}
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

func (c *countingWriter) span() span {
	if c.status != http.StatusOK && c.status != http.StatusPartialContent {
		return span{}
	}
	return span{c.start, c.start + c.n}
}

const maxHostKey = 16 << 10

// hostKeys takes well-formed SSH public keys out of a phone-home form, as
// "TYPE BASE64" without comment.
func hostKeys(form url.Values) []string {
	var keys []string
	for _, name := range []string{"pub_key_ed25519", "pub_key_ecdsa", "pub_key_rsa"} {
		if key, ok := publicKey(form.Get(name)); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// publicKey checks that the key's outer type is the one inside (RFC 4253,
// section 6.6).
func publicKey(text string) (string, bool) {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(text) > maxHostKey {
		return "", false
	}
	raw, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(raw) < 4 {
		return "", false
	}
	size := binary.BigEndian.Uint32(raw)
	if uint64(size) > uint64(len(raw)-4) || string(raw[4:4+size]) != fields[0] {
		return "", false
	}
	return fields[0] + " " + fields[1], true
}
