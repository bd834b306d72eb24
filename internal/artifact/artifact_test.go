// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(seed, 2))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func sha256Of(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func sha512Of(b []byte) string {
	s := sha512.Sum512(b)
	return "sha512:" + hex.EncodeToString(s[:])
}

func openStore(t *testing.T, dir string, change func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: dir, ImagesDir: filepath.Join(dir, "..", "images"), Backoff: time.Millisecond, Attempts: 3, Grace: time.Nanosecond}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newStore(t *testing.T) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"), nil)
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// wantContent fails unless err is nil and a holds b.
func wantContent(t *testing.T, a Artifact, err error, b []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) || a.Digest != sha256Of(b) || a.Size != int64(len(b)) {
		t.Fatalf("artifact %+v has %d bytes, wanted %d with %s", a, len(got), len(b), sha256Of(b))
	}
}

func wantReason(t *testing.T, err error, want Reason, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != want || !strings.Contains(e.Message, text) {
		t.Fatalf("got %v, wanted reason %s and %q", err, want, text)
	}
}

// noLeftovers fails when anything but verified content and records is there.
func noLeftovers(t *testing.T, s *Store) {
	t.Helper()
	for _, sub := range []string{"partial", "tmp"} {
		err := filepath.WalkDir(s.path(sub), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" {
				t.Errorf("%s is left over", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestSourceIsChecked(t *testing.T) {
	sum := sha256Of(nil)
	tests := map[string]struct {
		src    Source
		reason Reason
		text   string
	}{
		"nothing":         {Source{Checksum: sum}, ReasonInvalid, "neither"},
		"both":            {Source{URL: "http://a/b", Path: "b", Checksum: sum}, ReasonInvalid, "both"},
		"no checksum":     {Source{Path: "a"}, ReasonInvalid, "no checksum"},
		"leaves folder":   {Source{Path: "../a", Checksum: sum}, ReasonInvalid, "below the images folder"},
		"leaves inside":   {Source{Path: "a/../../b", Checksum: sum}, ReasonInvalid, "below the images folder"},
		"absolute":        {Source{Path: "/etc/passwd", Checksum: sum}, ReasonInvalid, "below the images folder"},
		"folder itself":   {Source{Path: ".", Checksum: sum}, ReasonInvalid, "below the images folder"},
		"ftp":             {Source{URL: "ftp://a/b", Checksum: sum}, ReasonInvalid, "http or https"},
		"file URL":        {Source{URL: "file:///etc/passwd", Checksum: sum}, ReasonInvalid, "http or https"},
		"no host":         {Source{URL: "http:///b", Checksum: sum}, ReasonInvalid, "with a host"},
		"URL of folder":   {Source{URL: "http://a/b/", Checksum: sum}, ReasonInvalid, "a folder"},
		"URL of nothing":  {Source{URL: "http://a", Checksum: sum}, ReasonInvalid, "a folder"},
		"not a URL":       {Source{URL: "http://a b/%zz", Checksum: sum}, ReasonInvalid, "not a URL"},
		"short checksum":  {Source{URL: "http://a/b", Checksum: "sha256:abc"}, ReasonInvalid, "64 hexadecimal"},
		"not hexadecimal": {Source{URL: "http://a/b", Checksum: "sha512:" + strings.Repeat("g", 128)}, ReasonInvalid, "128 hexadecimal"},
		"weak checksum":   {Source{URL: "http://a/b", Checksum: "md5:d41d8cd98f00b204e9800998ecf8427e"}, ReasonInvalid, "neither sha256"},
		"path for a URL":  {Source{URL: "http://a/b", Checksum: "SHA256SUMS"}, ReasonInvalid, "neither sha256"},
		"sums outside":    {Source{Path: "b", Checksum: "../SHA256SUMS"}, ReasonInvalid, "neither sha256"},
		"format":          {Source{Path: "b", Checksum: sum, Format: "vmdk"}, ReasonUnsupportedFormat, "qcow2, raw.gz"},
	}
	s := newStore(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := s.Ensure(t.Context(), tc.src, nil)
			wantReason(t, err, tc.reason, tc.text)
		})
	}
	if _, err := os.Stat(filepath.Join(s.opts.Dir, "sources")); err != nil {
		t.Error(err)
	}
}

func TestStoreIsPrivate(t *testing.T) {
	s := newStore(t)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("content")) })
	a, err := s.Ensure(t.Context(), Source{URL: url + "/f", Checksum: sha256Of([]byte("content"))}, nil)
	wantContent(t, a, err, []byte("content"))
	err = filepath.WalkDir(s.opts.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFormatIsCompared(t *testing.T) {
	tests := map[string]struct {
		content, format string
		text            string
	}{
		"qcow2":            {"QFI\xfb....", FormatQCOW2, ""},
		"raw":              {"whatever", FormatRaw, ""},
		"short raw":        {"w", FormatRaw, ""},
		"any":              {"\x1f\x8b....", "", ""},
		"gzip as raw":      {"\x1f\x8b....", FormatRaw, "set format to raw.gz"},
		"qcow2 as raw":     {"QFI\xfb....", FormatRaw, "set format to qcow2"},
		"raw as qcow2":     {"whatever", FormatQCOW2, "set format to raw"},
		"zstd as xz":       {"\x28\xb5\x2f\xfd....", FormatRawXZ, "set format to raw.zst"},
		"VMDK":             {"KDMV....", FormatRaw, "VMDK"},
		"an image stream":  {"PXELIMG\x00", FormatRaw, "image stream"},
		"nothing as qcow2": {"", FormatQCOW2, "set format to raw"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(tc.content)) })
			a, err := s.Ensure(t.Context(), Source{URL: url + "/f", Checksum: sha256Of([]byte(tc.content)), Format: tc.format}, nil)
			if tc.text == "" {
				wantContent(t, a, err, []byte(tc.content))
				return
			}
			wantReason(t, err, ReasonUnsupportedFormat, tc.text)
		})
	}
}

func TestInterruptedRunsAreCleared(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	live := openStore(t, dir, nil)
	if err := os.WriteFile(filepath.Join(live.run, "copy-1"), []byte("being made"), 0o600); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "tmp", "run-dead")
	stale := filepath.Join(dir, "partial", "stale")
	fresh := filepath.Join(dir, "partial", "fresh")
	if err := errors.Join(os.MkdirAll(filepath.Join(dead, "derive-1"), 0o700),
		os.WriteFile(filepath.Join(dead, "lock"), nil, 0o600),
		os.WriteFile(filepath.Join(dead, "derive-1", "raw"), noise(10, 1), 0o600),
		os.WriteFile(stale, noise(10, 1), 0o600), os.WriteFile(fresh, noise(10, 1), 0o600),
		os.Chtimes(stale, time.Unix(0, 0), time.Unix(0, 0))); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, nil)
	for path, want := range map[string]bool{dead: false, stale: false, fresh: true, filepath.Join(live.run, "copy-1"): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, wanted %v", path, err == nil, want)
		}
	}
}

func TestDamagedContentIsNotHandedOut(t *testing.T) {
	content := noise(5000, 1)
	s := newStore(t)
	var served atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { served.Add(1); _, _ = w.Write(content) })
	src := Source{URL: url + "/f", Checksum: sha256Of(content)}
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)

	// Touched, but the same: hashed again, not fetched again.
	if err := os.Chtimes(a.Path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(a.Digest); ok {
		t.Error("content that may have changed was handed out unchecked")
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	if n := served.Load(); n != 1 {
		t.Errorf("fetched %d times, wanted once", n)
	}
	if got, ok := s.Get(a.Digest); !ok || got != a {
		t.Errorf("got %+v, %v", got, ok)
	}

	// Changed: fetched again.
	if err := os.Chmod(a.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Path, noise(5000, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(a.Path, time.Unix(2, 0), time.Unix(2, 0)); err != nil {
		t.Fatal(err)
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)

	// Lost records cost a hash.
	if err := errors.Join(os.RemoveAll(s.path("verified")), os.Mkdir(s.path("verified"), 0o700)); err != nil {
		t.Fatal(err)
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	if n := served.Load(); n != 2 {
		t.Errorf("fetched %d times, wanted twice", n)
	}
}

func TestPrune(t *testing.T) {
	s := newStore(t)
	contents := map[string][]byte{"/keep": noise(100, 1), "/drop": noise(200, 2)}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(contents[r.URL.Path]) })
	ensure := func(name string) Artifact {
		t.Helper()
		a, err := s.Ensure(t.Context(), Source{URL: url + name, Checksum: sha256Of(contents[name])}, nil)
		wantContent(t, a, err, contents[name])
		return a
	}
	derive := func(a Artifact) Derived {
		t.Helper()
		d, err := s.Derive(t.Context(), a, "double", nil, func(_ context.Context, b *Build) (map[string]string, error) {
			in, err := os.ReadFile(a.Path)
			if err != nil {
				return nil, err
			}
			return nil, os.WriteFile(b.Path, append(in, in...), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	keep, drop := ensure("/keep"), ensure("/drop")
	kept, dropped := derive(keep), derive(drop)
	keeps := func(digest string) bool { return digest == keep.Digest }

	s.opts.Grace = time.Hour
	if p, err := s.Prune(t.Context(), keeps); err != nil || p.Files != 0 {
		t.Errorf("within the grace: removed %+v, %v", p, err)
	}
	s.opts.Grace = time.Nanosecond
	if p, err := s.Prune(t.Context(), keeps); err != nil || p.Files != 2 || p.Bytes <= 0 {
		t.Errorf("removed %+v, %v; wanted two files", p, err)
	}
	for a, want := range map[Artifact]bool{keep: true, kept.Artifact: true, drop: false, dropped.Artifact: false} {
		if _, ok := s.Get(a.Digest); ok != want {
			t.Errorf("%s is there: %v, wanted %v", a.Digest, ok, want)
		}
	}
	ensure("/drop") // comes back
	derive(drop)
}
