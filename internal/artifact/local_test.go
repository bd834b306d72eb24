// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// put writes a file to the images folder.
func put(t *testing.T, s *Store, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(s.opts.ImagesDir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o644)); err != nil {
		t.Fatal(err)
	}
	return p
}

func sumsOf(name string, b []byte) []byte {
	return fmt.Appendf(nil, "%s  %s\n", strings.TrimPrefix(sha256Of(b), "sha256:"), name)
}

// noWork returns a progress function that fails the test.
func noWork(t *testing.T) func(Progress) {
	return func(p Progress) { t.Errorf("got progress %+v, want no work", p) }
}

func TestEnsureLocalFile(t *testing.T) {
	s := newStore(t)
	content := noise(3<<20, 1)
	file := put(t, s, "debian/a.img", content)
	put(t, s, "debian/SHA256SUMS", sumsOf("a.img", content))
	url := serve(t, (&flaky{content: sumsOf("a.img", content)}).ServeHTTP)
	for _, sum := range []string{sha256Of(content), sha512Of(content), "debian/SHA256SUMS", url + "/SHA256SUMS"} {
		src := Source{Path: "debian/a.img", Checksum: sum}
		a, err := s.Ensure(t.Context(), src, nil)
		wantContent(t, a, err, content)
		a, err = s.Ensure(t.Context(), src, noWork(t))
		wantContent(t, a, err, content)
		a, err = openStore(t, s.opts.Dir, nil).Ensure(t.Context(), src, noWork(t))
		wantContent(t, a, err, content)
	}

	// A change of the original does not affect the store.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 100); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := s.Ensure(t.Context(), Source{Path: "debian/a.img", Checksum: sha256Of(content)}, nil)
	wantContent(t, a, err, content)

	// A checksum file in the folder is read again after the change.
	bySums := Source{Path: "debian/a.img", Checksum: "debian/SHA256SUMS"}
	_, err = s.Ensure(t.Context(), bySums, nil)
	wantReason(t, err, ReasonChecksumMismatch, "debian/a.img")
	changed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "debian/SHA256SUMS", sumsOf("a.img", changed))
	a, err = s.Ensure(t.Context(), bySums, nil)
	wantContent(t, a, err, changed)

	// Verified content remains after the original is deleted.
	if err := os.RemoveAll(s.opts.ImagesDir); err != nil {
		t.Fatal(err)
	}
	a, err = s.Ensure(t.Context(), bySums, noWork(t))
	wantContent(t, a, err, changed)
	_, err = s.Ensure(t.Context(), Source{Path: "debian/other", Checksum: "debian/SHA256SUMS"}, nil)
	wantReason(t, err, ReasonNotFound, "")
	noLeftovers(t, s)
}

func TestEnsureRejectsLocalFiles(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a.img", []byte("a"))
	put(t, s, "empty-sums", nil)
	in := func(name string) string { return filepath.Join(s.opts.ImagesDir, name) }
	if err := errors.Join(os.Symlink(outside, in("link-out")), os.Symlink("a.img", in("link-in")),
		os.Mkdir(in("folder"), 0o755), syscall.Mkfifo(in("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		src    Source
		reason Reason
		text   string
	}{
		"missing":       {Source{Path: "b.img", Checksum: sha256Of(nil)}, ReasonNotFound, "does not exist"},
		"link outside":  {Source{Path: "link-out", Checksum: sha256Of([]byte("secret"))}, ReasonInvalid, "cannot be opened"},
		"folder":        {Source{Path: "folder", Checksum: sha256Of(nil)}, ReasonInvalid, "not a regular file"},
		"pipe":          {Source{Path: "pipe", Checksum: sha256Of(nil)}, ReasonInvalid, "not a regular file"},
		"wrong":         {Source{Path: "a.img", Checksum: sha256Of(nil)}, ReasonChecksumMismatch, "correct the checksum"},
		"no sums":       {Source{Path: "a.img", Checksum: "SHA256SUMS"}, ReasonNotFound, "SHA256SUMS"},
		"no entry":      {Source{Path: "a.img", Checksum: "empty-sums"}, ReasonNoChecksumEntry, "empty-sums"},
		"sums is a dir": {Source{Path: "a.img", Checksum: "folder"}, ReasonInvalid, "not a regular file"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := s.Ensure(t.Context(), tc.src, nil)
			wantReason(t, err, tc.reason, tc.text)
		})
	}
	a, err := s.Ensure(t.Context(), Source{Path: "link-in", Checksum: sha256Of([]byte("a"))}, nil)
	wantContent(t, a, err, []byte("a"))
	none := openStore(t, filepath.Join(t.TempDir(), "s"), func(o *Options) { o.ImagesDir = "" })
	_, err = none.Ensure(t.Context(), Source{Path: "a.img", Checksum: sha256Of(nil)}, nil)
	wantReason(t, err, ReasonInvalid, "no images folder")
}

func TestEnsureKeepsFilesSparse(t *testing.T) {
	s := newStore(t)
	const size = 48 << 20
	p := put(t, s, "disk.raw", []byte("begin"))
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("end"), size-3)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Ensure(t.Context(), Source{Path: "disk.raw", Checksum: sha256Of(whole)}, nil)
	wantContent(t, a, err, whole)
	info, err := os.Stat(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if used := hostfs.AllocatedBytes(info); used > 16<<20 {
		t.Errorf("the copy uses %d bytes, want at most %d", used, 16<<20)
	}
}

func TestEnsureReadsRemoteChecksumFile(t *testing.T) {
	content := noise(1000, 1)
	f := &flaky{content: content}
	sums := &flaky{content: append(sumsOf("other", nil), sumsOf("image", content)...)}
	url, sumsURL := serve(t, f.ServeHTTP), serve(t, sums.ServeHTTP)
	src := Source{URL: url + "/releases/image", Checksum: sumsURL + "/releases/SHA256SUMS"}
	s := newStore(t)
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)

	// After the file was republished, the source resolves to the old content
	// until Forget is called.
	newer := noise(1000, 2)
	f.set(func() { f.content = newer })
	sums.set(func() { sums.content = sumsOf("image", newer) })
	a, err = s.Ensure(t.Context(), src, noWork(t))
	wantContent(t, a, err, content)
	if err := errors.Join(s.Forget(src), s.Forget(src)); err != nil {
		t.Fatal(err)
	}
	a, err = s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, newer)

	// Known content is not fetched from another URL.
	n := len(f.ranges())
	a, err = s.Ensure(t.Context(), Source{URL: url + "/mirror/image", Checksum: src.Checksum}, nil)
	wantContent(t, a, err, newer)
	if got := len(f.ranges()); got != n {
		t.Errorf("known content: got %d requests, want %d as before", got, n)
	}

	sums.set(func() { sums.content = append(sumsOf("image", newer), sumsOf("another", noise(10, 1))...) })
	_, err = s.Ensure(t.Context(), Source{URL: url + "/unlisted", Checksum: src.Checksum}, nil)
	wantReason(t, err, ReasonNoChecksumEntry, "but not unlisted")
	sums.set(func() { sums.content = bytes.Repeat([]byte("x"), maxSums+2) })
	_, err = s.Ensure(t.Context(), Source{URL: url + "/c", Checksum: src.Checksum}, nil)
	wantReason(t, err, ReasonTooLarge, "checksum file")
}

func TestEnsureFileRepublishedDuringDownload(t *testing.T) {
	newer := noise(1000, 2)
	f := &flaky{content: newer}
	// The first request returns the checksum of the old image.
	sums := serve(t, (&flaky{content: sumsOf("image", newer), bad: func(n int, w respWriter, _ *req) bool {
		if n == 0 {
			_, _ = w.Write(sumsOf("image", noise(1000, 1)))
		}
		return n == 0
	}}).ServeHTTP)
	s := newStore(t)
	a, err := s.Ensure(t.Context(), Source{URL: serve(t, f.ServeHTTP) + "/image", Checksum: sums + "/SHA256SUMS"}, nil)
	wantContent(t, a, err, newer)
}

func TestDerive(t *testing.T) {
	s := newStore(t)
	put(t, s, "a", []byte("abc"))
	a, err := s.Ensure(t.Context(), Source{Path: "a", Checksum: sha256Of([]byte("abc"))}, nil)
	wantContent(t, a, err, []byte("abc"))
	broken := errors.New("does not compile")
	_, err = s.Derive(t.Context(), a, "upper", nil, func(_ context.Context, b *Build) (map[string]string, error) {
		return nil, errors.Join(os.WriteFile(b.Path, []byte("half"), 0o600), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	noLeftovers(t, s)
	var built atomic.Int32
	build := func(_ context.Context, b *Build) (map[string]string, error) {
		built.Add(1)
		b.Report(StageConverting, 1, 2)
		b.Report(StageConverting, 2, 2)
		return map[string]string{"letters": "3"}, os.WriteFile(b.Path, []byte("ABC"), 0o600)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			d, err := s.Derive(t.Context(), a, "upper", nil, build)
			if err != nil {
				t.Error(err)
				return
			}
			if want := sha256Of([]byte("ABC")); d.Digest != want {
				t.Errorf("got digest %s, want %s", d.Digest, want)
			}
			if got := d.Meta["letters"]; got != "3" {
				t.Errorf("got letters %q, want 3", got)
			}
		})
	}
	wg.Wait()
	other := openStore(t, s.opts.Dir, nil)
	d, err := other.Derive(t.Context(), a, "upper", nil, build)
	wantContent(t, d.Artifact, err, []byte("ABC"))
	if n := built.Load(); n != 1 {
		t.Errorf("got %d builds, want 1", n)
	}
	if got := d.Meta["letters"]; got != "3" {
		t.Errorf("from another store: got letters %q, want 3", got)
	}
	// Damaged content is built again.
	if err := errors.Join(os.Chmod(d.Path, 0o600), os.WriteFile(d.Path, []byte("XYZ"), 0o600),
		os.Chtimes(d.Path, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	d, err = other.Derive(t.Context(), a, "upper", nil, build)
	wantContent(t, d.Artifact, err, []byte("ABC"))
	noLeftovers(t, s)
}
