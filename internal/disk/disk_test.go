// SPDX-License-Identifier: Apache-2.0

package disk

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
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"go.uber.org/goleak"
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
	if !errors.As(err, &e) || e.Reason != want || !strings.Contains(e.Message, text) {
		t.Fatalf("got %v, wanted reason %s and %q", err, want, text)
	}
}

// image has noise, text and zeros.
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

// pack makes the image in each format.
func pack(t testing.TB, dir string, raw []byte, format string) string {
	t.Helper()
	path := filepath.Join(dir, "image."+format)
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case FormatRaw:
		return write(t, path, raw)
	case FormatQCOW2:
		src := write(t, path+".src", raw)
		qemuImg(t, "convert", "-c", "-f", "raw", "-O", "qcow2", src, path)
		return path
	case FormatRawGzip:
		w = gzip.NewWriter(&out)
	case FormatRawXZ:
		w, err = xz.NewWriter(&out)
	case FormatRawZstd:
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

var allFormats = []string{FormatQCOW2, FormatRaw, FormatRawGzip, FormatRawXZ, FormatRawZstd}

func onlyFiles(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != want {
		t.Errorf("%d files in %s, wanted %d: %v", len(entries), dir, want, entries)
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
				t.Error("the raw image differs")
			}
			if last != total || total == 0 {
				t.Errorf("progress ended at %d of %d", last, total)
			}
			st, err := os.Stat(dst)
			if err != nil {
				t.Fatal(err)
			}
			if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 3<<19 {
				t.Errorf("%d bytes are used, zeros are no holes", used)
			}
			err = tool.ToRaw(t.Context(), src, format, dst, nil)
			wantReason(t, err, ReasonConflict, "exists already")
			onlyFiles(t, dir, 1)
		})
	}
}

func TestToRawRefuses(t *testing.T) {
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
		if format == FormatRaw {
			continue
		}
		src := pack(t, t.TempDir(), raw, format)
		whole := read(t, src)
		write(t, src, whole[:len(whole)/2])
		dst := t.TempDir()
		err := tool.ToRaw(t.Context(), src, format, filepath.Join(dst, "x"), nil)
		wantReason(t, err, ReasonDamaged, "anew")
		onlyFiles(t, dst, 0)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := tool.ToRaw(ctx, src, format, filepath.Join(dst, "x"), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, wanted cancelled", format, err)
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
	// Not LUKS, for which qemu-img measures the processor, and fails where the
	// thread's clock is too coarse; that one is crafted in TestCraftedQCOW2.
	qemuImg(t, "create", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s", in("aes"), "1M")
	qemuImg(t, "create", "-f", "vmdk", in("vmdk"), "1G")
	write(t, in("raw"), make([]byte, 1000))
	write(t, in("empty"), nil)
	tests := map[string]struct {
		format string
		want   Info
		text   string // of the error
	}{
		"good":     {FormatQCOW2, Info{VirtualSize: 10 << 30}, ""},
		"v2":       {FormatQCOW2, Info{VirtualSize: 10 << 30}, ""},
		"zstd":     {FormatQCOW2, Info{VirtualSize: 10 << 30}, ""},
		"raw":      {FormatRaw, Info{VirtualSize: 1000}, ""},
		"huge":     {FormatQCOW2, Info{VirtualSize: 2 << 40}, "at most"},
		"backing":  {FormatQCOW2, Info{VirtualSize: 10 << 30, HasBacking: true}, "backing file"},
		"backing2": {FormatQCOW2, Info{VirtualSize: 10 << 30, HasBacking: true}, "backing file"},
		"external": {FormatQCOW2, Info{VirtualSize: 1 << 30, ExternalData: true}, "in another file"},
		"aes":      {FormatQCOW2, Info{VirtualSize: 1 << 20, Encrypted: true}, "encrypted"},
		"vmdk":     {FormatQCOW2, Info{}, "its content is raw"},
		"empty":    {FormatRaw, Info{}, "not a file with a disk image"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			info, err := tool.Inspect(t.Context(), in(name), tc.format)
			if tc.text == "" && err != nil {
				t.Fatal(err)
			}
			if tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text)) {
				t.Errorf("got %v, wanted %q", err, tc.text)
			}
			info.ActualSize, tc.want.Format = 0, tc.format
			if info != tc.want {
				t.Errorf("got %+v, wanted %+v", info, tc.want)
			}
		})
	}
	_, err := tool.Inspect(t.Context(), in("good"), FormatRaw)
	wantReason(t, err, ReasonUnsupportedFormat, "set the format to qcow2")
	_, err = tool.Inspect(t.Context(), in("missing"), FormatRaw)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestOverlay(t *testing.T) {
	tool := newTool(t, Options{})
	dir := t.TempDir()
	raw := image(2 << 20)
	for _, format := range []string{FormatRaw, FormatQCOW2} {
		base := pack(t, t.TempDir(), raw, format)
		o := Overlay{Base: base, BaseFormat: format, Path: filepath.Join(dir, format), Size: 8 << 20}
		if err := tool.CreateOverlay(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		flat := filepath.Join(t.TempDir(), "flat")
		qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", o.Path, flat)
		if got := read(t, flat); len(got) != 8<<20 || !bytes.Equal(got[:len(raw)], raw) {
			t.Errorf("%s: the overlay does not show its base", format)
		}
		before := read(t, o.Path)
		if err := tool.CreateOverlay(t.Context(), o); err != nil || !bytes.Equal(before, read(t, o.Path)) {
			t.Errorf("%s: the second time: %v", format, err)
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
		small.Path, small.Size = filepath.Join(dir, "small"), 1<<20
		wantReason(t, tool.CreateOverlay(t.Context(), small), ReasonTooLarge, "make the disk larger")
		small.Size = 1000
		wantReason(t, tool.CreateOverlay(t.Context(), small), ReasonInvalid, "multiple of 512")
	}
	o := Overlay{Base: filepath.Join(dir, "raw"), BaseFormat: FormatQCOW2, Path: filepath.Join(dir, "chain"), Size: 8 << 20}
	wantReason(t, tool.CreateOverlay(t.Context(), o), ReasonUnsupportedFormat, "backing file")
	o.Path = write(t, filepath.Join(dir, "mine"), []byte("not to be lost"))
	wantReason(t, tool.CreateOverlay(t.Context(), o), ReasonConflict, "move it away")
	onlyFiles(t, dir, 3)
}

func TestBlank(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "disk")
	for _, size := range []int64{1 << 30, 1 << 30, 2 << 30} {
		if err := CreateBlank(p, size); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() != size || st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Blocks > 64 {
			t.Errorf("%d bytes, mode %v, %d blocks", st.Size(), st.Mode(), st.Sys().(*syscall.Stat_t).Blocks)
		}
	}
	wantReason(t, CreateBlank(p, 1<<30), ReasonConflict, "cannot be made smaller")
	wantReason(t, CreateBlank(dir, 1<<30), ReasonConflict, "not a file")
	wantReason(t, CreateBlank(p+"2", 0), ReasonInvalid, "multiple")
	wantReason(t, CreateBlank(p+"2", 513), ReasonInvalid, "multiple")
	onlyFiles(t, dir, 1)
}

// script stands in for a qemu-img that misbehaves.
func script(t *testing.T, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "qemu-img")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMisbehavingTool(t *testing.T) {
	src := pack(t, t.TempDir(), image(1<<20), FormatQCOW2)
	run := func(o Options) error {
		_, err := newTool(t, o).Inspect(t.Context(), src, FormatQCOW2)
		return err
	}
	wantReason(t, run(Options{Binary: script(t, "exec sleep 1000"), Timeout: 100 * time.Millisecond}), ReasonTimeout, "did not end")
	wantReason(t, run(Options{Binary: script(t, "echo broken >&2; exit 1")}), ReasonDamaged, "broken")
	wantReason(t, run(Options{Binary: script(t, `echo '{"format":"qcow2","virtual-size":5}'`)}), ReasonUnsupportedFormat, "another way")
	if err := run(Options{Binary: script(t, "head -c 9000000 /dev/zero")}); err == nil {
		t.Error("nonsense was believed")
	}
	_, err := New(Options{Binary: filepath.Join(t.TempDir(), "qemu-img")})
	wantReason(t, err, ReasonNoTool, "qemu-utils")
}

func TestLimitsHold(t *testing.T) {
	tool := newTool(t, Options{Binary: script(t, "ulimit -t; ulimit -v; ulimit -f; ulimit -c"), MaxMemory: 1 << 30})
	out, err := tool.run(t.Context(), limits{timeout: time.Minute, fileSize: 1 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	want := []string{"240", "1048576", "2049", "0"}
	if runtime.GOOS != "linux" { // no limit on memory there, and other units
		got, want = []string{got[0]}, want[:1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
}

func FuzzQCOW2Header(f *testing.F) {
	dir := f.TempDir()
	for i, opts := range []string{"compat=1.1", "compat=0.10", "extended_l2=on,compression_type=zstd", "data_file=" + filepath.Join(dir, "d"), "backing_file=/nothing,backing_fmt=raw"} {
		p := filepath.Join(dir, strconv.Itoa(i))
		qemuImg(f, "create", "-u", "-f", "qcow2", "-o", opts, p, "1G")
		b := read(f, p)
		f.Add(b[:min(len(b), 4096)], int64(len(b)))
	}
	f.Add([]byte(qcowMagic), int64(4))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		h, err := parseQCOW2(bytes.NewReader(b), size)
		if err != nil || h.refusal() != "" {
			return
		}
		be := binary.BigEndian
		if h.VirtualSize <= 0 || be.Uint64(b[8:]) != 0 || be.Uint32(b[32:]) != 0 || be.Uint64(b[40:]) >= uint64(size) {
			t.Fatalf("accepted %+v", h)
		}
		if h.Version == 3 && be.Uint64(b[72:])&^uint64(featuresKnown) != 0 {
			t.Fatalf("accepted features %#x", be.Uint64(b[72:]))
		}
	})
}
