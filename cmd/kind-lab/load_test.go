// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

func TestArchivesAreDecompressed(t *testing.T) {
	const content = "the archive"
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	_, _ = io.WriteString(w, content)
	_ = w.Close()
	for name, archive := range map[string]string{"plain": content, "gzip": compressed.String(), "short": "x", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			want := content
			if name == "short" || name == "empty" {
				want = archive
			}
			r, err := decompressed(bytes.NewReader([]byte(archive)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}
