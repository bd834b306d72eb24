// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pxelab/pxelab/internal/imagelayout"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// encodedImage encodes an image of 8 MiB and returns its blob and digest.
func encodedImage(t *testing.T, image []byte) (blob []byte, digest string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blob")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := imagestream.Write(context.Background(), f, bytes.NewReader(image), int64(len(image)), imagestream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if blob, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return blob, h.Digest()
}

// breaking opens a blob over connections that end after some bytes.
func breaking(blob []byte, limit int64) ImageOpener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(bytes.NewReader(blob[offset:]), limit)), nil
	}
}

func TestInspect(t *testing.T) {
	const mib = 1 << 20
	image := make([]byte, 8*mib)
	copy(image, dosDisk(2048, 2048*4))
	copy(image[mib:], "XFSB")
	for name, c := range map[string]struct {
		limit int64
		image []byte
		root  installerapi.RootPartition
		err   string
	}{
		"whole":                  {limit: mib, image: image},
		"connections that break": {limit: 30, image: image},
		"root is chosen":         {limit: mib, image: image, root: installerapi.RootPartition{Number: 1}},
		"another is chosen": {
			limit: mib, image: image, root: installerapi.RootPartition{Number: 2},
			err: "the image cannot be installed: spec.image.root of the profile selects none of its partitions: partition 1 (xfs)",
		},
		"a song": {
			limit: mib, image: bytes.Repeat([]byte("la "), mib),
			err: "the image cannot be installed: it has neither a partition table nor a file system that is known; " +
				"is it a disk image, and is spec.image.source.format right?",
		},
	} {
		t.Run(name, func(t *testing.T) {
			blob, digest := encodedImage(t, c.image)
			s, err := OpenStream(t.Context(), breaking(blob, 1<<20), digest)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.open = breaking(blob, c.limit)
			got, err := s.Inspect(t.Context(), c.root)
			if c.err != "" {
				var refused *imagelayout.UnsupportedError
				if !errors.As(err, &refused) || err.Error() != c.err {
					t.Errorf("got error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || got.Scheme != imagelayout.SchemeMBR || got.SectorSize != 512 || got.Root.Number != 1 {
				t.Errorf("got %+v, %v, want partition 1 of an MBR for sectors of 512 bytes", got, err)
			}
		})
	}
}

// A damaged image is not taken for one without a system.
func TestInspectReportsDamage(t *testing.T) {
	image := make([]byte, 1<<20)
	copy(image, "text")
	blob, digest := encodedImage(t, image)
	s, err := OpenStream(t.Context(), breaking(blob, 1<<20), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	blob[len(blob)-1] ^= 1
	if _, err := s.Inspect(t.Context(), installerapi.RootPartition{}); !errors.Is(err, imagestream.ErrCorrupt) {
		t.Errorf("got error %v, want %v", err, imagestream.ErrCorrupt)
	}
}
