// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/imageformat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTool(t testing.TB, o Options) *Tool {
	t.Helper()
	tool, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func qemuImg(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
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

// image returns a raw image with noise, text and zeros.
func image(n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := 0; i+70_000 < n; i += 200_000 {
		for j := range 50_000 {
			b[i+j] = byte(rnd.Uint32())
		}
		copy(b[i+60_000:], bytes.Repeat([]byte("text "), 2000))
	}
	return b
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pack writes the image in a format and returns the path of the file.
func pack(t testing.TB, dir string, raw []byte, format string) string {
	t.Helper()
	path := filepath.Join(dir, "image."+format)
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case imageformat.Raw:
		return write(t, path, raw)
	case imageformat.QCOW2:
		src := write(t, path+".src", raw)
		qemuImg(t, "convert", "-c", "-f", "raw", "-O", "qcow2", src, path)
		return path
	case imageformat.RawGzip:
		w = gzip.NewWriter(&out)
	case imageformat.RawXZ:
		w, err = xz.NewWriter(&out)
	case imageformat.RawZstd:
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(raw)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return write(t, path, out.Bytes())
}

var allFormats = []string{imageformat.QCOW2, imageformat.Raw, imageformat.RawGzip, imageformat.RawXZ, imageformat.RawZstd}

func onlyFiles(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != want {
		t.Errorf("got %d files in %s, want %d: %v", len(entries), dir, want, entries)
	}
}

func TestToRaw(t *testing.T) {
	tool := newTool(t, Options{})
	raw := image(2<<20 + 512)
	for _, format := range allFormats {
		t.Run(format, func(t *testing.T) {
			src := pack(t, t.TempDir(), raw, format)
			dir := t.TempDir()
			dst := filepath.Join(dir, "with, comma: and space.raw")
			var last, total int64
			if err := tool.ToRaw(t.Context(), src, format, dst, func(d, n int64) { last, total = d, n }); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, dst), raw) {
				t.Error("raw image: got other bytes, want those of the original")
			}
			if last != total || total == 0 {
				t.Errorf("got progress %d of %d at the end, want all of it", last, total)
			}
			st, err := os.Stat(dst)
			if err != nil {
				t.Fatal(err)
			}
			if used := hostfs.AllocatedBytes(st); used > 3<<19 {
				t.Errorf("the file uses %d bytes, want at most %d with holes for zeros", used, 3<<19)
			}
			err = tool.ToRaw(t.Context(), src, format, dst, nil)
			wantReason(t, err, ReasonConflict, "already exists")
			onlyFiles(t, dir, 1)
		})
	}
}

func TestToRawFails(t *testing.T) {
	raw := image(3 << 19)
	tool := newTool(t, Options{MaxVirtualSize: 1 << 20})
	for _, format := range allFormats {
		dst := t.TempDir()
		err := tool.ToRaw(t.Context(), pack(t, t.TempDir(), raw, format), format, filepath.Join(dst, "x"), nil)
		wantReason(t, err, ReasonTooLarge, "at most")
		onlyFiles(t, dst, 0)
	}
	tool = newTool(t, Options{})
	for _, format := range allFormats {
		if format == imageformat.Raw {
			continue
		}
		src := pack(t, t.TempDir(), raw, format)
		whole := read(t, src)
		write(t, src, whole[:len(whole)/2])
		dst := t.TempDir()
		err := tool.ToRaw(t.Context(), src, format, filepath.Join(dst, "x"), nil)
		wantReason(t, err, ReasonDamaged, "download")
		onlyFiles(t, dst, 0)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := tool.ToRaw(ctx, src, format, filepath.Join(dst, "x"), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", format, err, context.Canceled)
		}
		onlyFiles(t, dst, 0)
	}
}

func TestInspect(t *testing.T) {
	tool := newTool(t, Options{MaxVirtualSize: 1 << 40})
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	qemuImg(t, "create", "-f", "qcow2", in("good"), "10G")
	qemuImg(t, "create", "-f", "qcow2", "-o", "compat=0.10", in("v2"), "10G")
	qemuImg(t, "create", "-f", "qcow2", "-o", "compression_type=zstd,extended_l2=on", in("zstd"), "10G")
	qemuImg(t, "create", "-f", "qcow2", in("huge"), "2T")
	qemuImg(t, "create", "-f", "qcow2", "-b", in("good"), "-F", "qcow2", in("backing"))
	qemuImg(t, "create", "-f", "qcow2", "-o", "compat=0.10,backing_file="+in("v2")+",backing_fmt=qcow2", in("backing2"))
	qemuImg(t, "create", "-f", "qcow2", "-o", "data_file="+in("data"), in("external"), "1G")
	// Not LUKS: qemu-img benchmarks the CPU to create it, and fails where the
	// thread clock is too coarse. TestInspectRejectsCraftedQCOW2 crafts one.
	qemuImg(t, "create", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s", in("aes"), "1M")
	qemuImg(t, "create", "-f", "vmdk", in("vmdk"), "1G")
	write(t, in("raw"), make([]byte, 1000))
	write(t, in("empty"), nil)
	tests := map[string]struct {
		format string
		want   Info
		text   string // of the error
	}{
		"good":     {imageformat.QCOW2, Info{VirtualSize: 10 << 30}, ""},
		"v2":       {imageformat.QCOW2, Info{VirtualSize: 10 << 30}, ""},
		"zstd":     {imageformat.QCOW2, Info{VirtualSize: 10 << 30}, ""},
		"raw":      {imageformat.Raw, Info{VirtualSize: 1000}, ""},
		"huge":     {imageformat.QCOW2, Info{VirtualSize: 2 << 40}, "at most"},
		"backing":  {imageformat.QCOW2, Info{VirtualSize: 10 << 30, HasBacking: true}, "backing file"},
		"backing2": {imageformat.QCOW2, Info{VirtualSize: 10 << 30, HasBacking: true}, "backing file"},
		"external": {imageformat.QCOW2, Info{VirtualSize: 1 << 30, ExternalData: true}, "external data file"},
		"aes":      {imageformat.QCOW2, Info{VirtualSize: 1 << 20, Encrypted: true}, "encrypted"},
		"vmdk":     {imageformat.QCOW2, Info{}, "its content is raw"},
		"empty":    {imageformat.Raw, Info{}, "not a regular file"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			info, err := tool.Inspect(t.Context(), in(name), tc.format)
			if tc.text == "" && err != nil {
				t.Fatal(err)
			}
			if tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text)) {
				t.Errorf("got %v, want text %q", err, tc.text)
			}
			info.ActualSize = 0
			tc.want.Format = tc.format
			if info != tc.want {
				t.Errorf("got %+v, want %+v", info, tc.want)
			}
		})
	}
	_, err := tool.Inspect(t.Context(), in("good"), imageformat.Raw)
	wantReason(t, err, ReasonUnsupportedFormat, "set format to qcow2")
	_, err = tool.Inspect(t.Context(), in("missing"), imageformat.Raw)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

func TestCreateOverlay(t *testing.T) {
	tool := newTool(t, Options{})
	dir := t.TempDir()
	raw := image(2 << 20)
	for _, format := range []string{imageformat.Raw, imageformat.QCOW2} {
		base := pack(t, t.TempDir(), raw, format)
		o := Overlay{Base: base, BaseFormat: format, Path: filepath.Join(dir, format), Size: 8 << 20}
		if err := tool.CreateOverlay(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		flat := filepath.Join(t.TempDir(), "flat")
		qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", o.Path, flat)
		got := read(t, flat)
		if len(got) != 8<<20 {
			t.Fatalf("%s: got an overlay of %d bytes, want %d", format, len(got), 8<<20)
		}
		if !bytes.Equal(got[:len(raw)], raw) {
			t.Errorf("%s: got other bytes from the overlay, want those of its base", format)
		}
		before := read(t, o.Path)
		if err := tool.CreateOverlay(t.Context(), o); err != nil {
			t.Errorf("%s: second call: got error %v, want none", format, err)
		}
		if !bytes.Equal(before, read(t, o.Path)) {
			t.Errorf("%s: second call: got another overlay, want it unchanged", format)
		}
		for _, change := range []func(*Overlay){
			func(o *Overlay) { o.Size = 16 << 20 },
			func(o *Overlay) { o.Base = filepath.Join(dir, "other") },
		} {
			other := o
			change(&other)
			wantReason(t, tool.CreateOverlay(t.Context(), other), ReasonConflict, "delete it")
		}
		small := o
		small.Path = filepath.Join(dir, "small")
		small.Size = 1 << 20
		wantReason(t, tool.CreateOverlay(t.Context(), small), ReasonTooLarge, "make the disk larger")
		small.Size = 1000
		wantReason(t, tool.CreateOverlay(t.Context(), small), ReasonInvalid, "multiple of 512")
	}
	o := Overlay{Base: filepath.Join(dir, "raw"), BaseFormat: imageformat.QCOW2, Path: filepath.Join(dir, "chain"), Size: 8 << 20}
	wantReason(t, tool.CreateOverlay(t.Context(), o), ReasonUnsupportedFormat, "backing file")
	o.Path = write(t, filepath.Join(dir, "mine"), []byte("must remain"))
	wantReason(t, tool.CreateOverlay(t.Context(), o), ReasonConflict, "move it away")
	onlyFiles(t, dir, 3)
}

// script creates a shell script as a stand-in for qemu-img.
func script(t *testing.T, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "qemu-img")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInspectSurvivesToolFailures(t *testing.T) {
	src := pack(t, t.TempDir(), image(1<<20), imageformat.QCOW2)
	run := func(o Options) error {
		_, err := newTool(t, o).Inspect(t.Context(), src, imageformat.QCOW2)
		return err
	}
	wantReason(t, run(Options{Binary: script(t, "exec sleep 1000"), Timeout: 100 * time.Millisecond}), ReasonTimeout, "did not finish")
	wantReason(t, run(Options{Binary: script(t, "echo broken >&2; exit 1")}), ReasonDamaged, "broken")
	wantReason(t, run(Options{Binary: script(t, `echo '{"format":"qcow2","virtual-size":5}'`)}), ReasonUnsupportedFormat, "differently")
	if err := run(Options{Binary: script(t, "head -c 9000000 /dev/zero")}); err == nil {
		t.Error("got no error for invalid output of qemu-img, want one")
	}
	_, err := New(Options{Binary: filepath.Join(t.TempDir(), "qemu-img")})
	wantReason(t, err, ReasonNoTool, "qemu-utils")
}

func TestRunSetsResourceLimits(t *testing.T) {
	tool := newTool(t, Options{Binary: script(t, "ulimit -t; ulimit -v; ulimit -f; ulimit -c"), MaxMemory: 1 << 30})
	out, err := tool.run(t.Context(), limits{timeout: time.Minute, fileSize: 1 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	want := []string{"240", "1048576", "2049", "0"}
	if runtime.GOOS != "linux" { // other systems have no memory limit, and other units
		got, want = []string{got[0]}, want[:1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
}

func FuzzQCOW2Header(f *testing.F) {
	dir := f.TempDir()
	for i, opts := range []string{
		"compat=1.1", "compat=0.10", "extended_l2=on,compression_type=zstd",
		"data_file=" + filepath.Join(dir, "d"), "backing_file=/nothing,backing_fmt=raw",
	} {
		p := filepath.Join(dir, strconv.Itoa(i))
		qemuImg(f, "create", "-u", "-f", "qcow2", "-o", opts, p, "1G")
		b := read(f, p)
		f.Add(b[:min(len(b), 4096)], int64(len(b)))
	}
	f.Add([]byte(imageformat.QCOW2Magic), int64(4))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		h, err := parseQCOW2(bytes.NewReader(b), size)
		if err != nil || h.refusal() != "" {
			return
		}
		be := binary.BigEndian
		if h.VirtualSize <= 0 {
			t.Fatalf("accepted a virtual size of %d bytes, want a refusal", h.VirtualSize)
		}
		if backing := be.Uint64(b[8:]); backing != 0 {
			t.Fatalf("accepted a backing file name at %d, want a refusal", backing)
		}
		if method := be.Uint32(b[32:]); method != 0 {
			t.Fatalf("accepted encryption method %d, want a refusal", method)
		}
		if table := be.Uint64(b[40:]); table >= uint64(size) {
			t.Fatalf("accepted an L1 table at %d in a file of %d bytes, want a refusal", table, size)
		}
		if h.Version == 3 && be.Uint64(b[72:])&^uint64(featuresKnown) != 0 {
			t.Fatalf("accepted features %#x, want a refusal", be.Uint64(b[72:]))
		}
	})
}
