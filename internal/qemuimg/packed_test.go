// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/imageformat"
)

var packedFormats = []string{imageformat.RawGzip, imageformat.RawXZ, imageformat.RawZstd}

func TestToRawUnpacksQCOW2(t *testing.T) {
	raw := image(3 << 20)
	qcow2 := read(t, pack(t, t.TempDir(), raw, imageformat.QCOW2))
	for _, format := range packedFormats {
		t.Run(format, func(t *testing.T) {
			src, dir := pack(t, t.TempDir(), qcow2, format), t.TempDir()
			dst := filepath.Join(dir, "raw")
			last := int64(0)
			err := newTool(t, Options{}).ToRaw(t.Context(), src, format, dst, func(done, total int64) {
				if done < last || done > total {
					t.Errorf("got %d of %d bytes done after %d, want no less and at most the total", done, total, last)
				}
				last = done
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, dst); !bytes.Equal(got, raw) {
				t.Errorf("got %d other bytes, want the %d bytes of the disk", len(got), len(raw))
			}
			onlyFiles(t, dir, 1)
		})
	}
}

func TestToRawRejectsPackedFilesThatAreNoImage(t *testing.T) {
	disk := image(1 << 20)
	var archive, zipped bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "disk.raw", Size: int64(len(disk)), Mode: 0o644})
	_, err2 := w.Write(disk)
	z := zip.NewWriter(&zipped)
	member, err3 := z.Create("disk.raw")
	_, err4 := member.Write(disk)
	if err := errors.Join(err, err2, err3, err4, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	vmdk := filepath.Join(t.TempDir(), "vmdk")
	qemuImg(t, "create", "-q", "-f", "vmdk", vmdk, "1M")
	backed := filepath.Join(t.TempDir(), "backed")
	qemuImg(t, "create", "-q", "-f", "qcow2", backed, "1M")
	hostile := read(t, backed)
	binary.BigEndian.PutUint64(hostile[8:], 0x200)
	binary.BigEndian.PutUint32(hostile[16:], 11)
	copy(hostile[0x200:], "/etc/shadow")
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"tar":             {archive.Bytes(), "contains a tar archive, which is not supported as an image; extract the disk image"},
		"zip":             {zipped.Bytes(), "contains a zip archive"},
		"VMDK":            {read(t, vmdk), "contains a VMDK image, which is not supported as an image; convert it"},
		"page":            {[]byte("<html><body>404 Not Found</body></html>\n"), "contains an HTML page"},
		"packed twice":    {read(t, pack(t, t.TempDir(), disk, imageformat.RawGzip)), "contains another compressed file (raw.gz)"},
		"hostile qcow2":   {hostile, "backing file"},
		"truncated qcow2": {hostile[:64], "cannot be used"},
	} {
		for _, format := range packedFormats {
			t.Run(name+" in "+format, func(t *testing.T) {
				src, dir := pack(t, t.TempDir(), c.content, format), t.TempDir()
				err := newTool(t, Options{}).ToRaw(t.Context(), src, format, filepath.Join(dir, "raw"), nil)
				wantReason(t, err, ReasonUnsupportedFormat, c.want)
				if !strings.Contains(err.Error(), src) {
					t.Errorf("got error %q, want one that names the file %s", err, src)
				}
				onlyFiles(t, dir, 0)
			})
		}
	}
}

// A packed qcow2 image that describes a disk beyond the limit is rejected before it is
// converted, and one whose file is beyond it while it is decompressed.
func TestToRawLimitsPackedQCOW2(t *testing.T) {
	qcow2 := filepath.Join(t.TempDir(), "large")
	qemuImg(t, "create", "-q", "-f", "qcow2", qcow2, "1G")
	if out, err := exec.Command("gzip", qcow2).CombinedOutput(); err != nil {
		t.Fatalf("gzip: %v\n%s", err, out)
	}
	for _, limit := range []int64{64 << 10, 512 << 20} {
		dir := t.TempDir()
		err := newTool(t, Options{MaxVirtualSize: limit}).ToRaw(t.Context(), qcow2+".gz", imageformat.RawGzip, filepath.Join(dir, "raw"), nil)
		wantReason(t, err, ReasonTooLarge, "at most")
		onlyFiles(t, dir, 0)
	}
}
