// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/imageformat"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

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
	o := Options{Dir: dir, ImagesDir: filepath.Join(dir, "..", "images"), Backoff: time.Millisecond, Attempts: 3}
	o.Network.Allow = loopback // where the tests' servers are
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

// wantContent fails unless err is nil and a contains b.
func wantContent(t *testing.T, a Artifact, err error, b []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Fatalf("got an artifact with %d other bytes, want the %d bytes of the source", len(got), len(b))
	}
	if want := sha256Of(b); a.Digest != want {
		t.Fatalf("got an artifact with digest %s, want %s", a.Digest, want)
	}
	if a.Size != int64(len(b)) {
		t.Fatalf("got an artifact with size %d, want %d", a.Size, len(b))
	}
}

func wantReason(t *testing.T, err error, want Reason, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want an *Error", err)
	}
	if e.Reason != want {
		t.Fatalf("got reason %s, want %s: %v", e.Reason, want, err)
	}
	if !strings.Contains(e.Message, text) {
		t.Fatalf("got message %q, want it to contain %q", e.Message, text)
	}
}

// noLeftovers fails if there are partial downloads or scratch files.
func noLeftovers(t *testing.T, s *Store) {
	t.Helper()
	for _, sub := range []string{"partial", "tmp"} {
		err := filepath.WalkDir(s.path(sub), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" {
				t.Errorf("got leftover file %s, want none", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestEnsureRejectsInvalidSources(t *testing.T) {
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
		"weak checksum":   {Source{URL: "http://a/b", Checksum: "md5:d41d8cd98f00b204e9800998ecf8427e"}, ReasonInvalid, "algorithm md5, which is not accepted"},
		"weak, with path": {Source{Path: "b", Checksum: "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"}, ReasonInvalid, "algorithm sha1"},
		"bare hash":       {Source{Path: "b", Checksum: strings.Repeat("aB", 32)}, ReasonInvalid, "has no algorithm"},
		"bare MD5":        {Source{Path: "b", Checksum: "d41d8cd98f00b204e9800998ecf8427e"}, ReasonInvalid, "has no algorithm"},
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

func TestStoreIsReadableByOwnerOnly(t *testing.T) {
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
			t.Errorf("%s has mode %v, want no access for group and others", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEnsureChecksFormat(t *testing.T) {
	tests := map[string]struct {
		content, format string
		text            string
	}{
		"qcow2":            {"QFI\xfb....", imageformat.QCOW2, ""},
		"raw":              {"whatever", imageformat.Raw, ""},
		"short raw":        {"w", imageformat.Raw, ""},
		"any":              {"\x1f\x8b....", "", ""},
		"gzip as raw":      {"\x1f\x8b....", imageformat.Raw, "set format to raw.gz"},
		"qcow2 as raw":     {"QFI\xfb....", imageformat.Raw, "set format to qcow2"},
		"raw as qcow2":     {"whatever", imageformat.QCOW2, "set format to raw"},
		"zstd as xz":       {"\x28\xb5\x2f\xfd....", imageformat.RawXZ, "set format to raw.zst"},
		"VMDK":             {"KDMV....", imageformat.Raw, "is a VMDK image"},
		"page":             {"<html><body>404 Not Found</body></html>\n", imageformat.Raw, "is an HTML page"},
		"page as qcow2":    {"<!DOCTYPE html>\n<html>", imageformat.QCOW2, "is an HTML page"},
		"an image stream":  {"PXELIMG\x00", imageformat.Raw, "image stream"},
		"nothing as qcow2": {"", imageformat.QCOW2, "set format to raw"},
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

func TestOpenRemovesFilesOfDeadProcesses(t *testing.T) {
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
			t.Errorf("%s exists: %v, want %v", path, err == nil, want)
		}
	}
}

// A user deletes everything in the directory of an open store.
func TestStoreRecoversFromDeletedFiles(t *testing.T) {
	s := newStore(t)
	content := noise(5000, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	src := Source{URL: url + "/a", Checksum: sha256Of(content)}
	for range 2 {
		a, err := s.Ensure(t.Context(), src, nil)
		wantContent(t, a, err, content)
		d := double(t, s, a, "twice")
		wantContent(t, d.Artifact, nil, append(bytes.Clone(content), content...))
		for _, sub := range subdirs {
			if err := os.RemoveAll(s.path(sub)); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := s.Get(a.Digest); ok {
			t.Error("got content that was deleted, want none")
		}
		if all, err := s.Inventory(anyRecipe); err != nil || len(all) > 0 {
			t.Errorf("Inventory: got %v, %v; want nothing", all, err)
		}
		if _, err := s.Remove(t.Context(), nil); err != nil {
			t.Errorf("Remove: got error %v, want none", err)
		}
		// Another store does not remove the scratch directory that this one uses again.
		a, err = s.Ensure(t.Context(), src, nil)
		wantContent(t, a, err, content)
		openStore(t, s.opts.Dir, nil)
		if _, err := os.Stat(s.run); err != nil {
			t.Errorf("scratch directory: got %v, want it to exist", err)
		}
	}
}

func TestEnsureDetectsDamagedContent(t *testing.T) {
	content := noise(5000, 1)
	s := newStore(t)
	var served atomic.Int32
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { served.Add(1); _, _ = w.Write(content) })
	src := Source{URL: url + "/f", Checksum: sha256Of(content)}
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)

	// Content with another modification time is hashed again, but not fetched.
	if err := os.Chtimes(a.Path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(a.Digest); ok {
		t.Error("Get of content that may have changed: got true, want false")
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	if n := served.Load(); n != 1 {
		t.Errorf("got %d downloads, want 1", n)
	}
	if got, ok := s.Get(a.Digest); !ok || got != a {
		t.Errorf("got %+v, %v; want %+v", got, ok, a)
	}

	// Changed content is fetched again.
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

	// Content without a record is hashed again, but not fetched.
	if err := errors.Join(os.RemoveAll(s.path("verified")), os.Mkdir(s.path("verified"), 0o700)); err != nil {
		t.Fatal(err)
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	if n := served.Load(); n != 2 {
		t.Errorf("got %d downloads, want 2", n)
	}
}
