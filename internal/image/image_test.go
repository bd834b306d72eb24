// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
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
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/imagestream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type lab struct {
	*Images
	store  *artifact.Store
	images string
}

func newLab(t *testing.T, o disk.Options) lab {
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
	tool, err := disk.New(o)
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
	a, err := l.store.Ensure(t.Context(), artifact.Source{Path: name, Checksum: "sha256:" + hex.EncodeToString(sum[:]), Format: format}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// samples is one disk in several formats.
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
		artifact.FormatRaw:     raw,
		artifact.FormatQCOW2:   qcow,
		artifact.FormatRawZstd: z.EncodeAll(raw, nil),
	}
}

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

func TestStreamAndBase(t *testing.T) {
	raw, packed := samples(t)
	l := newLab(t, disk.Options{})
	var pins []string
	for format, b := range packed {
		a := l.put(t, "disk."+format, format, b)
		last := artifact.Progress{}
		s, err := l.EnsureStream(t.Context(), a, format, func(p artifact.Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		if last.Stage == "" || last.Percent() > 100 {
			t.Errorf("%s: last progress %+v", format, last)
		}
		if !bytes.Equal(install(t, s), raw) {
			t.Errorf("%s: what is installed differs from the image", format)
		}
		if s.DataBytes <= 0 || s.DataBytes > 2<<20 {
			t.Errorf("%s: %d bytes of data", format, s.DataBytes)
		}
		pins = append(pins, s.Pin)
		again, err := l.EnsureStream(t.Context(), a, format, func(p artifact.Progress) { t.Errorf("unexpected work: %+v", p) })
		if err != nil || again != s {
			t.Errorf("%s: the second time %+v, %v; wanted %+v", format, again, err, s)
		}

		base, err := l.EnsureBase(t.Context(), a, format, nil)
		if err != nil {
			t.Fatal(err)
		}
		again2, err := l.EnsureBase(t.Context(), a, format, nil)
		if err != nil || again2 != base || base.VirtualSize != int64(len(raw)) {
			t.Errorf("%s: base %+v, then %+v, %v", format, base, again2, err)
		}
		o := disk.Overlay{Base: base.Path, BaseFormat: base.Format, Path: filepath.Join(t.TempDir(), "o"), Size: 16 << 20}
		if err := l.tool.CreateOverlay(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	for _, p := range pins {
		if p != pins[0] {
			t.Errorf("one disk in several formats has pins %v", pins)
		}
	}
}

func TestSharedConversion(t *testing.T) {
	_, packed := samples(t)
	l := newLab(t, disk.Options{})
	a := l.put(t, "d", artifact.FormatQCOW2, packed[artifact.FormatQCOW2])
	var wg sync.WaitGroup
	streams := make([]Stream, 8)
	for i := range streams {
		wg.Go(func() {
			var err error
			if streams[i], err = l.EnsureStream(t.Context(), a, artifact.FormatQCOW2, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range streams {
		if s != streams[0] {
			t.Errorf("got %+v and %+v", s, streams[0])
		}
	}
}

func TestUnusableImages(t *testing.T) {
	raw, packed := samples(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := z.EncodeAll(make([]byte, 64<<20), nil)
	wolf := z.EncodeAll(packed[artifact.FormatQCOW2], nil) // a qcow2 file, packed as if raw
	tests := map[string]struct {
		format string
		data   []byte
		reason disk.Reason
		text   string
	}{
		"cut off":        {artifact.FormatQCOW2, packed[artifact.FormatQCOW2][:100_000], disk.ReasonUnsupportedFormat, ""},
		"cut off packed": {artifact.FormatRawZstd, packed[artifact.FormatRawZstd][:40], disk.ReasonDamaged, "anew"},
		"bomb":           {artifact.FormatRawZstd, bomb, disk.ReasonTooLarge, "at most"},
		"too large":      {artifact.FormatRaw, append(raw, make([]byte, 32<<20)...), disk.ReasonTooLarge, "at most"},
		"wolf":           {artifact.FormatRawZstd, wolf, disk.ReasonUnsupportedFormat, "qcow2"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, disk.Options{MaxVirtualSize: 32 << 20})
			a := l.put(t, "disk", tc.format, tc.data)
			_, err := l.EnsureBase(t.Context(), a, tc.format, nil)
			var e *disk.Error
			if name == "cut off" { // which of its parts is missing depends on the version of qemu-img
				if !errors.As(err, &e) {
					_, err = l.EnsureStream(t.Context(), a, tc.format, nil)
				}
				if !errors.As(err, &e) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if !errors.As(err, &e) || e.Reason != tc.reason || !strings.Contains(e.Message, tc.text) {
				t.Fatalf("got %v, wanted %s", err, tc.reason)
			}
		})
	}
}
