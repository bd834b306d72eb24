// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// TestInspectRejectsCraftedQCOW2 changes single fields of a real image. qemu-img
// must not be started on it.
func TestInspectRejectsCraftedQCOW2(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	qemuImg(t, "create", "-f", "qcow2", good, "1G")
	image := read(t, good)
	be := binary.BigEndian
	tests := map[string]struct {
		craft func(b []byte)
		text  string
	}{
		"backing file without its extension": {func(b []byte) {
			be.PutUint64(b[8:], 0x200)
			be.PutUint32(b[16:], 11)
			copy(b[0x200:], "/etc/shadow")
		}, "backing file"},
		"length of a backing file's name": {func(b []byte) { be.PutUint32(b[16:], 11) }, "backing file"},
		"external data file":              {func(b []byte) { b[79] |= featureDataFile }, "external data file"},
		"name of a data file":             {func(b []byte) { be.PutUint32(b[be.Uint32(b[100:]):], extDataFile) }, "external data file"},
		"encrypted by LUKS":               {func(b []byte) { be.PutUint32(b[32:], 2) }, "encrypted"},
		"extension for LUKS":              {func(b []byte) { be.PutUint32(b[be.Uint32(b[100:]):], extLUKS) }, "encrypted"},
		"marked as corrupt":               {func(b []byte) { b[79] |= featureCorrupt }, "corrupt"},
		"features of the future":          {func(b []byte) { b[72] = 0x80 }, "unknown features"},
		"version":                         {func(b []byte) { be.PutUint32(b[4:], 4) }, "version 4"},
		"bomb":                            {func(b []byte) { be.PutUint64(b[24:], 1<<60) }, "too small"},
		"bomb with a table to match":      {func(b []byte) { be.PutUint64(b[24:], 1<<50); be.PutUint32(b[36:], 1<<22) }, "L1 table"},
		"negative size":                   {func(b []byte) { be.PutUint64(b[24:], 1<<63) }, "virtual size"},
		"no size":                         {func(b []byte) { be.PutUint64(b[24:], 0) }, "virtual size"},
		"clusters of a terabyte":          {func(b []byte) { be.PutUint32(b[20:], 40) }, "clusters"},
		"L1 table beyond the end":         {func(b []byte) { be.PutUint64(b[40:], 1<<40) }, "L1 table"},
		"L1 table at an overflow":         {func(b []byte) { be.PutUint64(b[40:], 0xffffffffffff0000) }, "L1 table"},
		"L1 table over the header":        {func(b []byte) { be.PutUint64(b[40:], 0) }, "L1 table"},
		"reference counts":                {func(b []byte) { be.PutUint32(b[96:], 60) }, "reference counts"},
		"reference count table":           {func(b []byte) { be.PutUint32(b[56:], 1<<30) }, "tables"},
		"header's length":                 {func(b []byte) { be.PutUint32(b[100:], 1<<20) }, "header length"},
		"extension's length":              {func(b []byte) { be.PutUint64(b[be.Uint32(b[100:]):], 1<<32|0xffffffff) }, "extension"},
	}
	// The stand-in for qemu-img reports that it was started.
	tool := newTool(t, Options{Binary: script(t, "echo started >&2; exit 1")})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(image)
			tc.craft(b)
			path := write(t, filepath.Join(dir, "crafted"), b)
			_, err := tool.Inspect(t.Context(), path, imageformat.QCOW2)
			wantReason(t, err, ReasonUnsupportedFormat, tc.text)
			if strings.Contains(err.Error(), "started") {
				t.Errorf("got error %v of qemu-img, want a refusal before it is started", err)
			}
		})
	}
	if _, err := tool.Inspect(t.Context(), good, imageformat.QCOW2); err == nil || !strings.Contains(err.Error(), "started") {
		t.Errorf("unchanged image: got %v, want an error of qemu-img", err)
	}
}

// packXZ compresses with the xz program, which has more options than the library.
func packXZ(t testing.TB, raw []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"--compress", "--stdout"}, args...)...)
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %v: %v", args, err)
	}
	return out
}

func unpackXZ(b []byte) ([]byte, error) {
	r, err := newXZReader(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestXZReader(t *testing.T) {
	raw := image(1 << 20)
	blocks := packXZ(t, raw, "--block-size=100KiB", "-T2", "-0")
	plain := packXZ(t, raw, "-0")
	for name, packed := range map[string][]byte{
		"one block": plain, "blocks": blocks,
		"without a check": packXZ(t, raw, "--check=none", "-0"),
		"crc32":           packXZ(t, raw, "--check=crc32", "-0"),
		"sha256":          packXZ(t, raw, "--check=sha256", "-0"),
	} {
		if got, err := unpackXZ(packed); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: got %d bytes, error %v; want the %d bytes that were compressed", name, len(got), err, len(raw))
		}
	}
	twice := append(append(bytes.Clone(plain), make([]byte, 8)...), blocks...)
	if got, err := unpackXZ(append(twice, 0, 0, 0, 0)); err != nil || !bytes.Equal(got, append(bytes.Clone(raw), raw...)) {
		t.Errorf("two streams: got %d bytes, error %v; want the input twice, %d bytes", len(got), err, 2*len(raw))
	}
	for name, packed := range map[string][]byte{
		"cut in its data": blocks[:len(blocks)/2], "cut in its index": blocks[:len(blocks)-14], "cut in its header": plain[:9],
		"trailing bytes": append(bytes.Clone(plain), "more"...), "uneven padding": append(bytes.Clone(plain), 0, 0),
		"a filter": packXZ(t, raw, "--x86", "--lzma2=preset=0"),
	} {
		if _, err := unpackXZ(packed); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

// TestXZReaderLimitsMemory crafts a file that requires 4 GiB of memory.
func TestXZReaderLimitsMemory(t *testing.T) {
	packed := packXZ(t, []byte("a small file\n"), "-0")
	// The dictionary size follows the stream header (12 bytes), the size and flags
	// of the block, the ID of LZMA2 and the length of its properties.
	const dictionary = 12 + 4
	packed[dictionary] = 40
	path := write(t, filepath.Join(t.TempDir(), "bomb.xz"), packed)
	err := newTool(t, Options{}).ToRaw(t.Context(), path, imageformat.RawXZ, filepath.Join(t.TempDir(), "raw"), nil)
	wantReason(t, err, ReasonDamaged, "4294967295 bytes of memory")
}

func FuzzXZ(f *testing.F) {
	raw := image(300_000)
	f.Add(packXZ(f, raw, "--block-size=100KiB", "-T2", "-0"))
	f.Add(packXZ(f, raw[:5000], "--check=none"))
	f.Add(append(packXZ(f, raw[:10]), packXZ(f, raw[:10])...))
	f.Add(packXZ(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := newXZReader(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		const limit = 1 << 20
		got, err := io.ReadAll(io.LimitReader(r, limit))
		if err != nil || len(got) == limit {
			return
		}
		// The output must match that of the library, which also verifies checks.
		reference, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		want, err := io.ReadAll(reference)
		if err != nil && !errors.Is(err, io.EOF) {
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("output (-want +got):\n%s", diff)
		}
	})
}
