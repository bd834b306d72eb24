// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

func blob(t *testing.T, content []byte) (netbootapi.Blob, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blob")
	writeFile(t, path, string(content))
	sum := sha256.Sum256(content)
	return netbootapi.Blob{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}, path
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMissingContentIsUploaded(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	first, firstPath := blob(t, bytes.Repeat([]byte("first "), 300_000))
	second, secondPath := blob(t, []byte("second"))
	h.PutServer("s", newConfig(60, first, second), map[string]string{first.Digest: firstPath})
	o := w.until(t, h, "the first", func(o Observation) bool {
		_, whole := server.Blob(first.Digest)
		return whole && o.Upload == nil && o.Pending == 1
	})
	if o.PutError == nil || !strings.Contains(o.PutError.Error(), second.Digest) {
		t.Errorf("without the second: got PutError %v, want one that names %s", o.PutError, second.Digest)
	}
	// The same config, now with the file of the second blob.
	h.PutServer("s", newConfig(60, first, second), map[string]string{first.Digest: firstPath, second.Digest: secondPath})
	o = w.until(t, h, "the second", inForce)
	if o.Pending != 0 || o.PutError != nil {
		t.Errorf("in force: got %d pending and PutError %v, want none", o.Pending, o.PutError)
	}
	for _, b := range []netbootapi.Blob{first, second} {
		if got, ok := server.Blob(b.Digest); !ok || int64(len(got)) != b.Size {
			t.Errorf("%s: got %d bytes, %v; want all %d bytes", b.Digest, len(got), ok, b.Size)
		}
	}
	if n := server.ServerPuts(); n != 1 {
		t.Errorf("got %d configs, want 1", n)
	}
}

// What netbootd loses is sent again.
func TestLostContentIsUploaded(t *testing.T) {
	h, w := newHub(t)
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	program, programPath := blob(t, []byte("iPXE"))
	image, path := blob(t, []byte("image"))
	d := newMachine(1)
	installs(&d, image, path)
	text := userData(&d, "#cloud-config")
	h.PutServer("s", newConfig(60, program), map[string]string{program.Digest: programPath})
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	for _, digest := range []string{program.Digest, image.Digest, text.Digest} {
		server.Lose(digest)
		await(t, w, "it again", func() bool { _, whole := server.Blob(digest); return whole }, func(whole bool) bool { return whole })
	}
	w.until(t, h, "all", func(o Observation) bool { return o.Pending == 0 && len(o.State.MissingBlobs) == 0 })
	w.untilMachine(t, h, "m", "all", func(m Machine) bool { return m.Pending == 0 && len(m.State.MissingBlobs) == 0 })
	if n, m := server.ServerPuts(), server.MachinePuts("m"); n != 1 || m != 1 {
		t.Errorf("got %d configs and %d entries, want one each", n, m)
	}
}

func TestBrokenUploadIsResumed(t *testing.T) {
	h, w := newHub(t)
	var mu sync.Mutex
	var sent []int64
	const cut = 300_000
	server := netbootdtest.Start(t, netbootdtest.Options{Upload: func(_ context.Context, _ string, content io.Reader) (io.Reader, error) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, 0)
		attempt := len(sent) - 1
		counted := readerFunc(func(p []byte) (int, error) {
			n, err := content.Read(p)
			mu.Lock()
			defer mu.Unlock()
			sent[attempt] += int64(n)
			return n, err
		})
		if attempt == 0 {
			broken := iotest.ErrReader(errors.New("the connection is cut"))
			return io.MultiReader(io.LimitReader(counted, cut), broken), nil
		}
		return counted, nil
	}})
	connect(t, h, server)
	content, path := blob(t, bytes.Repeat([]byte("0123456789"), 100_000))
	h.PutServer("s", newConfig(60, content), map[string]string{content.Digest: path})
	w.until(t, h, "the error", func(o Observation) bool { return o.Upload != nil && o.Upload.Error != nil })
	w.until(t, h, "all of it", func(o Observation) bool { return inForce(o) && len(o.State.MissingBlobs) == 0 && o.Upload == nil })
	mu.Lock()
	defer mu.Unlock()
	if len(sent) != 2 || sent[1] != content.Size-cut {
		t.Errorf("sent %v bytes of %d; want the second attempt to resume at %d", sent, content.Size, cut)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestRefusedBlobDoesNotBlockOthers(t *testing.T) {
	h, w := newHub(t)
	bad, badPath := blob(t, []byte("will be changed"))
	good, goodPath := blob(t, []byte("good"))
	writeFile(t, badPath, "was xx changed!")
	server := netbootdtest.Start(t, netbootdtest.Options{})
	connect(t, h, server)
	h.PutServer("s", newConfig(60, bad, good), map[string]string{bad.Digest: badPath, good.Digest: goodPath})
	w.until(t, h, "the good one", func(o Observation) bool {
		_, whole := server.Blob(good.Digest)
		return whole && o.Pending == 1
	})
	w.until(t, h, "the error", func(o Observation) bool { return o.Upload != nil && errors.Is(o.Upload.Error, netbootapi.ErrDigest) })
	writeFile(t, badPath, "will be changed")
	w.until(t, h, "the repaired one", func(o Observation) bool { return inForce(o) && len(o.State.MissingBlobs) == 0 && o.Upload == nil })
}

// gate blocks the uploads of one blob until it is opened, and counts all uploads.
type gate struct {
	mu      sync.Mutex
	uploads map[string]int
	blocked string
	begun   chan struct{}
	release chan struct{}
}

func newGate(blocked string) *gate {
	return &gate{
		uploads: map[string]int{}, blocked: blocked,
		begun: make(chan struct{}, 10), release: make(chan struct{}),
	}
}

func (g *gate) upload(ctx context.Context, digest string, content io.Reader) (io.Reader, error) {
	g.mu.Lock()
	g.uploads[digest]++
	g.mu.Unlock()
	if digest != g.blocked {
		return content, nil
	}
	g.begun <- struct{}{}
	select {
	case <-g.release:
		return content, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gate) times(digest string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.uploads[digest]
}

func largeBlob(t *testing.T) (netbootapi.Blob, string) {
	t.Helper()
	return blob(t, bytes.Repeat([]byte("0123456789"), 1<<18))
}

// Neither the config nor another machine and its texts wait for a large file.
func TestNothingWaitsForALargeUpload(t *testing.T) {
	image, path := largeBlob(t)
	g := newGate(image.Digest)
	h, w, server := started(t, netbootdtest.Options{Upload: g.upload})
	large := newMachine(1)
	installs(&large, image, path)
	h.PutMachine("s", "large", large)
	<-g.begun
	h.PutServer("s", newConfig(61), nil)
	other := newMachine(2)
	text := userData(&other, "#cloud-config")
	h.PutMachine("s", "other", other)
	w.untilMachine(t, h, "other", "in force", machineInForce)
	if _, whole := server.Text(text.Digest); !whole {
		t.Error("during the upload: got no text, want it")
	}
	o := w.until(t, h, "in force", inForce)
	if o.Upload == nil || o.Upload.Blob != image || o.Pending != 1 {
		t.Errorf("during the upload: got upload %+v and %d pending, want one of %+v", o.Upload, o.Pending, image)
	}
	m := h.ObserveMachine("s", "large")
	if m.Upload == nil || m.Upload.Blob != image || m.Error != nil || m.Pending != 1 || m.InForce {
		t.Errorf("during the upload: got %+v, want the upload of %+v", m, image)
	}
	close(g.release)
	w.untilMachine(t, h, "large", "in force", machineInForce)
	if n := server.MachinePuts("large"); n != 1 {
		t.Errorf("got %d entries, want 1", n)
	}
}

// An edit of a text sends that text alone.
func TestEditedTextIsSentAlone(t *testing.T) {
	image, path := largeBlob(t)
	g := newGate("")
	h, w, server := started(t, netbootdtest.Options{Upload: g.upload})
	var texts []netbootapi.Blob
	for n := range 8 {
		d := newMachine(1)
		installs(&d, image, path)
		keys := netbootapi.TextBlob(textKey, "ssh-ed25519 AAAA")
		d.Content.SSHAuthorizedKeys = keys
		d.Texts[keys.Digest] = "ssh-ed25519 AAAA"
		texts = append(texts, userData(&d, "#cloud-config\n# "+uidOf(n)), keys)
		h.PutMachine("s", "m", d)
		w.untilMachine(t, h, "m", "in force", machineInForce)
	}
	for _, b := range append(texts, image) {
		if got := g.times(b.Digest); got != 1 {
			t.Errorf("%s: got %d uploads, want 1", b.Digest, got)
		}
	}
	if n := server.MachinePuts("m"); n != 8 {
		t.Errorf("got %d entries, want 8", n)
	}
}

// Nor does an edit interrupt the upload of a file that is still needed.
func TestEditDoesNotInterruptUploads(t *testing.T) {
	image, path := largeBlob(t)
	g := newGate(image.Digest)
	h, w, server := started(t, netbootdtest.Options{Upload: g.upload})
	edited := func(text string) netbootapi.Blob {
		d := newMachine(1)
		installs(&d, image, path)
		b := userData(&d, text)
		h.PutMachine("s", "m", d)
		return b
	}
	edited("#cloud-config")
	<-g.begun
	text := edited("#cloud-config\n# edited")
	await(t, w, "the text", func() bool { _, whole := server.Text(text.Digest); return whole }, func(whole bool) bool { return whole })
	if m := h.ObserveMachine("s", "m"); m.Upload == nil || m.Upload.Blob != image || m.Error != nil {
		t.Errorf("during the upload: got %+v, want the upload of %+v", m, image)
	}
	close(g.release)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if got := g.times(image.Digest); got != 1 {
		t.Errorf("got %d uploads of the file, want 1", got)
	}
}

// What several machines need is sent once.
func TestSharedContentIsSentOnce(t *testing.T) {
	image, path := largeBlob(t)
	g := newGate("")
	h, w, server := started(t, netbootdtest.Options{Upload: g.upload})
	var text netbootapi.Blob
	for n := range 20 {
		d := newMachine(n)
		installs(&d, image, path)
		if n%2 == 1 { // one source is enough
			clear(d.Files)
		}
		text = userData(&d, "#cloud-config")
		h.PutMachine("s", uidOf(n), d)
	}
	for n := range 20 {
		w.untilMachine(t, h, uidOf(n), "in force", machineInForce)
		if got := server.MachinePuts(uidOf(n)); got != 1 {
			t.Errorf("%s: got %d entries, want 1", uidOf(n), got)
		}
	}
	for _, b := range []netbootapi.Blob{image, text} {
		if got := g.times(b.Digest); got != 1 {
			t.Errorf("%s: got %d uploads, want 1", b.Digest, got)
		}
	}
}

// An upload that nothing needs any more ends, and makes room for others.
func TestUnneededUploadEnds(t *testing.T) {
	image, path := largeBlob(t)
	g := newGate(image.Digest)
	h, w, _ := started(t, netbootdtest.Options{Upload: g.upload})
	d := newMachine(1)
	installs(&d, image, path)
	h.PutMachine("s", "m", d)
	<-g.begun
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
	another, anotherPath := blob(t, bytes.Repeat([]byte("9876543210"), 1<<18))
	other := newMachine(2)
	installs(&other, another, anotherPath)
	h.PutMachine("s", "other", other)
	w.untilMachine(t, h, "other", "in force", machineInForce)
	// It is sent if it is needed again.
	h.PutMachine("s", "m", d)
	<-g.begun
	close(g.release)
	w.untilMachine(t, h, "m", "in force", machineInForce)
}

// A file that its owner's Boot does not need is sent if it is here, and is not missed
// otherwise.
func TestFilesOfOtherBoots(t *testing.T) {
	image, path := blob(t, []byte("image"))
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	installs(&d, image, path)
	d.Control.Boot = netbootapi.BootDisk
	clear(d.Files)
	h.PutMachine("s", "m", d)
	if m := w.untilMachine(t, h, "m", "in force", machineInForce); m.Error != nil || m.Pending != 0 {
		t.Errorf("without the file: got error %v and %d pending, want none", m.Error, m.Pending)
	}
	d.Files[image.Digest] = path
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "the file", func(m Machine) bool { return len(m.State.MissingBlobs) == 0 })
	if _, whole := server.Blob(image.Digest); !whole {
		t.Error("got no file, want it")
	}
	if got := h.Content(); len(got) != 1 || got[0] != image.Digest {
		t.Errorf("files that are needed: got %v, want %s", got, image.Digest)
	}
}

// A file that cannot be read is an error of its upload, and tried again.
func TestUnreadableFileIsReported(t *testing.T) {
	image, path := largeBlob(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h, w, _ := started(t, netbootdtest.Options{})
	d := newMachine(1)
	installs(&d, image, path)
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "the error", func(m Machine) bool { return m.Upload != nil && errors.Is(m.Upload.Error, os.ErrNotExist) })
	w.until(t, h, "the error", func(o Observation) bool { return o.Upload != nil && errors.Is(o.Upload.Error, os.ErrNotExist) })
	writeFile(t, path, string(content))
	w.untilMachine(t, h, "m", "in force", machineInForce)
}
