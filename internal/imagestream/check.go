// SPDX-License-Identifier: Apache-2.0

package imagestream

import "github.com/zeebo/blake3"

// Checker verifies compressed frames without decompressing them, in memory that
// does not depend on their size. A frame that matches its digest is what the
// encoder wrote; that it decompresses to the image is the encoder's promise. A
// Checker is not safe for concurrent use.
type Checker struct {
	header *Header
	hash   *blake3.Hasher
	size   int64
}

// NewChecker returns a checker for the frames of h.
func NewChecker(h *Header) *Checker { return &Checker{header: h, hash: blake3.New()} }

// Write adds compressed bytes of the frame that is checked next. It does not fail.
func (c *Checker) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	return c.hash.Write(p)
}

// Check compares the bytes written since the last Check with the digest of the
// frame with the given index. Its errors wrap ErrCorrupt.
func (c *Checker) Check(frame int) error {
	f := &c.header.Frames[frame]
	var sum [frameDigest]byte
	c.hash.Sum(sum[:0])
	size := c.size
	c.hash.Reset()
	c.size = 0
	if size != f.Size || sum != f.Digest {
		return c.header.mismatch(frame)
	}
	return nil
}
