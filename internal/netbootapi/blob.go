// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"regexp"
	"strings"
)

// Blob is content that the manager uploads once and netbootd stores by digest.
type Blob struct {
	// Digest is "sha256:<64 hex>" of a file, or "hmac-sha256:<64 hex>" of a text.
	Digest string `json:"digest"`
	// Size in bytes.
	Size int64 `json:"size"`
}

const (
	prefixFile = "sha256:"
	prefixText = "hmac-sha256:"
)

var hexPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ValidDigest reports whether s is "sha256:<64 lower-case hex digits>".
func ValidDigest(s string) bool {
	sum, ok := strings.CutPrefix(s, prefixFile)
	return ok && hexPattern.MatchString(sum)
}

// ValidTextDigest reports whether s is "hmac-sha256:<64 lower-case hex digits>".
func ValidTextDigest(s string) bool {
	sum, ok := strings.CutPrefix(s, prefixText)
	return ok && hexPattern.MatchString(sum)
}

// IsText reports whether b is a text of a machine.
func (b Blob) IsText() bool { return strings.HasPrefix(b.Digest, prefixText) }

// TextBlob returns the address of a text; the zero Blob for an empty text. A text may
// be a secret and addresses are not, so the address is the text's HMAC (RFC 2104) under
// the server's TextKey: a reader of the address cannot try texts.
func TextBlob(key []byte, text string) Blob {
	if text == "" {
		return Blob{}
	}
	sum := BlobHash(prefixText, key)
	sum.Write([]byte(text))
	return Blob{Digest: BlobDigest(prefixText, sum), Size: int64(len(text))}
}

// BlobHash returns the hash with which the content of a blob is verified; key is the
// server's TextKey.
func BlobHash(digest string, key []byte) hash.Hash {
	if strings.HasPrefix(digest, prefixText) {
		return hmac.New(sha256.New, key)
	}
	return sha256.New()
}

// BlobDigest returns the digest of the content that was written to a BlobHash, in the
// form of like, which is a digest of the same kind.
func BlobDigest(like string, h hash.Hash) string {
	kind, _, _ := strings.Cut(like, ":")
	return kind + ":" + hex.EncodeToString(h.Sum(nil))
}
