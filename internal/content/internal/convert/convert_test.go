// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/imageformat"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type lab struct {
	*Images
	store  *artifact.Store
	images string
}

func newLab(t *testing.T, o qemuimg.Options) lab {
	t.Helper()
	dir := t.TempDir()
	l := lab{images: filepath.Join(dir, "images")}
	if err := os.Mkdir(l.images, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.store, err = artifact.Open(artifact.Options{Dir: filepath.Join(dir, "store"), ImagesDir: l.images}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.store.Close() })
	tool, err := qemuimg.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l.Images = New(l.store, tool)
	return l
}

// put stores a file as an artifact.
func (l lab) put(t *testing.T, name, format string, b []byte) artifact.Artifact {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.images, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	src := artifact.Source{Path: name, Checksum: "sha256:" + hex.EncodeToString(sum[:]), Format: format}
	a, err := l.store.Ensure(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// samples returns one raw disk, and the same disk in several formats.
func samples(t *testing.T) (raw []byte, packed map[string][]byte) {
	t.Helper()
	raw = make([]byte, 9<<20)
	copy(raw[512:], bytes.Repeat([]byte("boot"), 1000))
	copy(raw[5<<20:], bytes.Repeat([]byte("root"), 300_000))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.WriteFile(src, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", src, dst).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	qcow, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	return raw, map[string][]byte{
		imageformat.Raw:     raw,
		imageformat.QCOW2:   qcow,
		imageformat.RawZstd: z.EncodeAll(raw, nil),
	}
}

// install returns the disk that an installation of s creates.
func install(t *testing.T, s Stream) []byte {
	t.Helper()
	f, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := imagestream.NewReader(f, s.Pin)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := make([]byte, s.VirtualSize)
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, seg := range c.Segments {
			copy(out[seg.Offset:], seg.Data)
		}
	}
}

func TestEnsureStreamAndBase(t *testing.T) {
	raw, packed := samples(t)
	l := newLab(t, qemuimg.Options{})
	var pins []string
	for format, b := range packed {
		a := l.put(t, "disk."+format, format, b)
		last := artifact.Progress{}
		s, err := l.EnsureStream(t.Context(), a, format, func(p artifact.Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		if last.Stage == "" {
			t.Errorf("%s: got last progress %+v, want one with a stage", format, last)
		}
		if percent := last.Percent(); percent > 100 {
			t.Errorf("%s: got last progress of %v percent, want at most 100", format, percent)
		}
		if !bytes.Equal(install(t, s), raw) {
			t.Errorf("%s: got another disk from the stream, want the image", format)
		}
		if s.DataBytes <= 0 || s.DataBytes > 2<<20 {
			t.Errorf("%s: got %d bytes of data, want 1 to %d", format, s.DataBytes, 2<<20)
		}
		pins = append(pins, s.Pin)
		again, err := l.EnsureStream(t.Context(), a, format, func(p artifact.Progress) {
			t.Errorf("%s: second call: got progress %+v, want no work", format, p)
		})
		if err != nil || again != s {
			t.Errorf("%s: second call: got %+v, %v; want %+v", format, again, err, s)
		}

		base, err := l.EnsureBase(t.Context(), a, format, nil)
		if err != nil {
			t.Fatal(err)
		}
		again2, err := l.EnsureBase(t.Context(), a, format, nil)
		if err != nil || again2 != base {
			t.Errorf("%s: second call: got base %+v, error %v, want %+v", format, again2, err, base)
		}
		if base.VirtualSize != int64(len(raw)) {
			t.Errorf("%s: got a base of %d bytes, want %d", format, base.VirtualSize, len(raw))
		}
		o := qemuimg.Overlay{Base: base.Path, BaseFormat: base.Format, Path: filepath.Join(t.TempDir(), "o"), Size: 16 << 20}
		if err := l.tool.CreateOverlay(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	for _, p := range pins {
		if p != pins[0] {
			t.Errorf("got pins %v for one disk in several formats, want the same pin", pins)
		}
	}
}

func TestConcurrentCallsShareConversion(t *testing.T) {
	_, packed := samples(t)
	l := newLab(t, qemuimg.Options{})
	a := l.put(t, "d", imageformat.QCOW2, packed[imageformat.QCOW2])
	var wg sync.WaitGroup
	streams := make([]Stream, 8)
	for i := range streams {
		wg.Go(func() {
			var err error
			if streams[i], err = l.EnsureStream(t.Context(), a, imageformat.QCOW2, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range streams {
		if s != streams[0] {
			t.Errorf("got %+v, want %+v", s, streams[0])
		}
	}
}

func TestUnusableImagesAreRejected(t *testing.T) {
	raw, packed := samples(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := z.EncodeAll(make([]byte, 64<<20), nil)
	packedQCOW2 := z.EncodeAll(packed[imageformat.QCOW2][:64], nil)
	tests := map[string]struct {
		format string
		data   []byte
		reason qemuimg.Reason
		text   string
	}{
		"truncated":            {imageformat.QCOW2, packed[imageformat.QCOW2][:100_000], qemuimg.ReasonUnsupportedFormat, ""},
		"truncated compressed": {imageformat.RawZstd, packed[imageformat.RawZstd][:40], qemuimg.ReasonDamaged, "download"},
		"bomb":                 {imageformat.RawZstd, bomb, qemuimg.ReasonTooLarge, "at most"},
		"too large":            {imageformat.Raw, append(raw, make([]byte, 32<<20)...), qemuimg.ReasonTooLarge, "at most"},
		"truncated, packed":    {imageformat.RawZstd, packedQCOW2, qemuimg.ReasonUnsupportedFormat, "cannot be used"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, qemuimg.Options{MaxVirtualSize: 32 << 20})
			a := l.put(t, "disk", tc.format, tc.data)
			_, err := l.EnsureBase(t.Context(), a, tc.format, nil)
			var e *qemuimg.Error
			if name == "truncated" { // which part is missing depends on the version of qemu-img
				if !errors.As(err, &e) {
					_, err = l.EnsureStream(t.Context(), a, tc.format, nil)
				}
				if !errors.As(err, &e) {
					t.Fatalf("got %v, want a *disk.Error", err)
				}
				return
			}
			if !errors.As(err, &e) {
				t.Fatalf("got error %v, want a *qemuimg.Error", err)
			}
			if e.Reason != tc.reason {
				t.Fatalf("got reason %s, want %s: %v", e.Reason, tc.reason, err)
			}
			if !strings.Contains(e.Message, tc.text) {
				t.Fatalf("got message %q, want it to contain %q", e.Message, tc.text)
			}
		})
	}
}

// An image that certainly cannot be installed is refused before any target gets it.
func TestImageWithoutSystemIsRefused(t *testing.T) {
	l := newLab(t, qemuimg.Options{})
	image := make([]byte, 4<<20)
	copy(image[446:], []byte{0, 0, 0, 0, 0x8E, 0, 0, 0, 0, 8, 0, 0, 0, 0x10, 0, 0}) // LVM, at 1 MiB
	image[510], image[511] = 0x55, 0xAA
	copy(image[1<<20+512:], "LABELONE")
	a := l.put(t, "lvm", imageformat.Raw, image)
	for range 2 { // the second finds the conversion
		_, err := l.EnsureStream(t.Context(), a, imageformat.Raw, nil)
		var e *qemuimg.Error
		if !errors.As(err, &e) || e.Reason != qemuimg.ReasonUnsupportedLayout || !strings.Contains(e.Message, "LVM physical volume") {
			t.Errorf("got error %v, want a *qemuimg.Error about LVM", err)
		}
	}
}

// A conversion waits for the turn of its caller instead of for a slot.
func TestConversionWaitsForTurn(t *testing.T) {
	l := newLab(t, qemuimg.Options{})
	raw, _ := samples(t)
	a := l.put(t, "disk", imageformat.Raw, raw)
	for range cap(l.slots) {
		l.slots <- struct{}{} // as other callers hold all
	}
	turns, ended := 0, 0
	ctx := WithTurn(t.Context(), func(context.Context) (func(), error) {
		turns++
		return func() { ended++ }, nil
	})
	for range 2 { // the second finds the result
		if _, err := l.EnsureStream(ctx, a, imageformat.Raw, nil); err != nil {
			t.Fatal(err)
		}
	}
	if turns != 1 || ended != 1 {
		t.Errorf("got %d turns of which %d ended, want 1", turns, ended)
	}
	refused := WithTurn(t.Context(), func(context.Context) (func(), error) { return nil, context.Canceled })
	b := l.put(t, "other", imageformat.Raw, append(raw, make([]byte, 512)...))
	if _, err := l.EnsureStream(refused, b, imageformat.Raw, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a turn that is not given: got error %v, want %v", err, context.Canceled)
	}
}

// A conversion waits while as many as there are slots are built, and shows it.
func TestConversionsAreLimited(t *testing.T) {
	l := newLab(t, qemuimg.Options{})
	raw, _ := samples(t)
	a := l.put(t, "image", imageformat.Raw, raw)
	for range cap(l.slots) {
		l.slots <- struct{}{}
	}
	waiting, converted := make(chan struct{}), make(chan error, 1)
	shown := sync.OnceFunc(func() { close(waiting) })
	go func() {
		_, err := l.EnsureStream(t.Context(), a, imageformat.Raw, func(p artifact.Progress) {
			if p.Stage == artifact.StageWaiting {
				shown()
			}
		})
		converted <- err
	}()
	<-waiting
	select {
	case err := <-converted:
		t.Fatalf("without a slot: got error %v, want the conversion to wait", err)
	default:
	}
	<-l.slots
	if err := <-converted; err != nil {
		t.Errorf("with a slot: got error %v, want none", err)
	}
}
