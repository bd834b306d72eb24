// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestSamplesHaveNoPasswords rejects credentials in the samples, with which every
// reader of the samples could log in: users log in with the lab's own key.
func TestSamplesHaveNoPasswords(t *testing.T) {
	credentials := regexp.MustCompile(`(?i)passw|pwauth|\$(1|2[aby]|5|6|y)\$|PRIVATE KEY|ssh-(rsa|ed25519) AAAA|ssh_import_id`)
	seen := 0
	for _, dir := range []string{"samples", "default", "manager"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "config", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			seen++
			text, err := os.ReadFile(path)
			if found := credentials.Find(text); found != nil {
				t.Errorf("%s contains %q, want no credentials", path, found)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 8 {
		t.Errorf("got %d files, want at least 8", seen)
	}
}
