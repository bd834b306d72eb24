// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestSamplesHaveNoPasswords looks for whatever would let somebody in who knows
// the samples: people log in with the lab's own key.
func TestSamplesHaveNoPasswords(t *testing.T) {
	let := regexp.MustCompile(`(?i)passw|pwauth|\$(1|2[aby]|5|6|y)\$|PRIVATE KEY|ssh-(rsa|ed25519) AAAA|ssh_import_id`)
	seen := 0
	for _, dir := range []string{"samples", "default", "manager"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "config", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			seen++
			text, err := os.ReadFile(path)
			if found := let.Find(text); found != nil {
				t.Errorf("%s has %q in it", path, found)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 8 {
		t.Errorf("only %d files were looked at", seen)
	}
}
