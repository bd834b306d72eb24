// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"io"
	"strings"
	"testing"
)

func TestTextBlob(t *testing.T) {
	// RFC 4231, test case 2.
	const want = "hmac-sha256:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
	b := TextBlob([]byte("Jefe"), "what do ya want for nothing?")
	if b != (Blob{Digest: want, Size: 28}) {
		t.Errorf("got %+v, want %s of 28 bytes", b, want)
	}
	if !b.IsText() || !ValidTextDigest(b.Digest) || ValidDigest(b.Digest) {
		t.Errorf("%+v: got a file, want a text", b)
	}
	if got := TextBlob([]byte("Jefe"), ""); got != (Blob{}) {
		t.Errorf("no text: got %+v, want no blob", got)
	}
	if other := TextBlob([]byte("other"), "what do ya want for nothing?"); other.Digest == b.Digest {
		t.Error("another key: got the same digest, want another")
	}
	if plain := Digest([]byte("what do ya want for nothing?")); strings.HasSuffix(plain, strings.TrimPrefix(b.Digest, "hmac-sha256:")) {
		t.Error("got the plain digest of the text, want one that needs the key")
	}
}

// The content of a blob is verified by a digest of the same kind.
func TestBlobHash(t *testing.T) {
	key := []byte("0123456789abcdef")
	const content = "content"
	for _, digest := range []string{Digest([]byte(content)), TextBlob(key, content).Digest} {
		for text, same := range map[string]bool{content: true, "Content": false, "": false} {
			sum := BlobHash(digest, key)
			if _, err := io.WriteString(sum, text); err != nil {
				t.Fatal(err)
			}
			if got := BlobDigest(digest, sum); (got == digest) != same {
				t.Errorf("%q: got digest %s of %s, want it to be equal: %v", text, got, digest, same)
			}
		}
	}
	sum := BlobHash(TextBlob(key, content).Digest, []byte("another key 1234"))
	if _, err := io.WriteString(sum, content); err != nil {
		t.Fatal(err)
	}
	if want := TextBlob(key, content).Digest; BlobDigest(want, sum) == want {
		t.Error("another key: got the text verified, want another digest")
	}
}

func TestValidDigests(t *testing.T) {
	sum := strings.Repeat("0f", 32)
	for digest, want := range map[string]struct{ file, text bool }{
		"sha256:" + sum:                  {file: true},
		"hmac-sha256:" + sum:             {text: true},
		"":                               {},
		sum:                              {},
		"sha256:" + strings.ToUpper(sum): {},
		"sha256:" + sum + "0":            {},
		"sha256:" + sum[1:]:              {},
		"sha256:" + sum + "\n":           {},
		"sha256:../" + sum[3:]:           {},
		"sha512:" + sum:                  {},
		"hmac-sha256:" + sum[1:]:         {},
		"hmac-sha256:sha256:" + strings.Repeat("0", 57): {},
	} {
		if got := ValidDigest(digest); got != want.file {
			t.Errorf("ValidDigest(%q): got %v, want %v", digest, got, want.file)
		}
		if got := ValidTextDigest(digest); got != want.text {
			t.Errorf("ValidTextDigest(%q): got %v, want %v", digest, got, want.text)
		}
	}
}
