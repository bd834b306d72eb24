// SPDX-License-Identifier: Apache-2.0

package cidata

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// run runs a program and returns its output. It fails the test if the program
// fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sampleFiles(t *testing.T) map[string]Content {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(binary, noise(15<<20+123), 0o755); err != nil {
		t.Fatal(err)
	}
	return map[string]Content{
		UserData:                       {Data: []byte("#cloud-config\nhostname: a\n")},
		MetaData:                       {Data: []byte("instance-id: 1\n")},
		NetworkConfig:                  {Data: []byte("version: 2\n")},
		VendorData:                     {},
		"netbootd":                     {Path: binary},
		"netbootd.json":                {Data: noise(2048)}, // exactly one sector
		"tls.key":                      {Data: noise(2049)},
		"a-name-of-twenty-eight-chars": {Data: []byte{0}},
	}
}

func TestXorrisoReadsImage(t *testing.T) {
	files := sampleFiles(t)
	iso := filepath.Join(t.TempDir(), "seed.iso")
	digest, err := Write(iso, files)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(iso)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(image); digest != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("got digest %s, want sha256:%x", digest, sum)
	}
	dir := filepath.Join(t.TempDir(), "out")
	run(t, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, e := range entries {
		got[e.Name()] = true
		want := files[e.Name()].Data
		if p := files[e.Name()].Path; p != "" {
			if want, err = os.ReadFile(p); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s: got %d bytes that differ from the original of %d bytes", e.Name(), len(have), len(want))
		}
	}
	want := map[string]bool{}
	for name := range files {
		want[name] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if info := run(t, "xorriso", "-indev", iso, "-pvd_info"); !strings.Contains(info, "Volume Id    : cidata") {
		t.Errorf("got volume descriptor\n%s\nwant volume ID cidata", info)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	files := sampleFiles(t)
	dir := t.TempDir()
	a, err := Write(filepath.Join(dir, "a"), files)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Write(filepath.Join(dir, "b"), files)
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("got digests %s and %s for the same files, want the same", a, b)
	}
	files[UserData] = Content{Data: []byte("#cloud-config\nhostname: b\n")}
	c, err := Write(filepath.Join(dir, "b"), files)
	if err != nil {
		t.Fatal(err)
	}
	if c == b {
		t.Error("other user-data: got the same digest, want another one")
	}
	st, err := os.Stat(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, want 0600", st.Mode())
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("got %d files in the folder, want 2", len(entries))
	}
}

func TestWriteRejectsInvalidFiles(t *testing.T) {
	base := map[string]Content{UserData: {}, MetaData: {}}
	with := func(name string, c Content) map[string]Content {
		m := map[string]Content{name: c}
		for k, v := range base {
			m[k] = v
		}
		return m
	}
	many := map[string]Content{UserData: {}, MetaData: {}}
	for i := range maxFiles {
		many[fmt.Sprintf("file%d", i)] = Content{}
	}
	tests := map[string]struct {
		files map[string]Content
		want  string
	}{
		"no user-data": {map[string]Content{MetaData: {}}, "user-data is missing"},
		"no meta-data": {map[string]Content{UserData: {}}, "meta-data is missing"},
		"long":         {with("a-name-of-twenty-nine-charact", Content{}), "would be truncated"},
		"extension":    {with("a.extension", Content{}), "would be truncated"},
		"upper case":   {with("README", Content{}), "upper-case"},
		"folder":       {with("etc/passwd", Content{}), "in a folder"},
		"two dots":     {with("a.tar.gz", Content{}), "2 dots"},
		"final dot":    {with("a.", Content{}), "ends with a dot"},
		"leading dot":  {with(".ssh", Content{}), "character"},
		"space":        {with("a b", Content{}), "character"},
		"not ASCII":    {with("ä", Content{}), "character"},
		"no name":      {with("", Content{}), "empty"},
		"both":         {with("a", Content{Data: []byte{1}, Path: "/etc/passwd"}), "only one"},
		"a directory":  {with("a", Content{Path: t.TempDir()}), "not a regular file"},
		"too many":     {many, "at most"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seed.iso")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Write(path, tc.files)
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with text %q", err, tc.want)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
				t.Errorf("got %q, %v in the existing file, want it unchanged", b, err)
			}
		})
	}
	_, err := Write(filepath.Join(t.TempDir(), "x"), with("a", Content{Path: "/does/not/exist"}))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

func TestWriteFitsMaximumOfFiles(t *testing.T) {
	files := map[string]Content{UserData: {}, MetaData: {}}
	for i := range maxFiles - 2 {
		files[fmt.Sprintf("a-name-of-twenty-eight-ch-%02d", i)] = Content{Data: noise(i * 100)}
	}
	if _, err := Write(filepath.Join(t.TempDir(), "seed.iso"), files); err != nil {
		t.Fatal(err)
	}
}

func TestWriteReportsMissingFolder(t *testing.T) {
	_, err := Write(filepath.Join(t.TempDir(), "no", "seed.iso"), map[string]Content{UserData: {}, MetaData: {}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
