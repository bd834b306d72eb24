// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pxelab/pxelab/internal/imagelayout"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// ImageContents is what an installation needs to know of an image before it writes it.
type ImageContents struct {
	Scheme imagelayout.Scheme
	// SectorSize is the size in bytes of the logical sectors for which the image was
	// made; 0 is any.
	SectorSize int64
	// Root is the partition that holds the system.
	Root imagelayout.Partition
}

// Inspect reads the few parts of the image that describe its contents, over separate
// connections. The error for an image that cannot be installed is an
// *imagelayout.UnsupportedError.
func (s *Stream) Inspect(ctx context.Context, root installerapi.RootPartition) (ImageContents, error) {
	image, err := imagestream.NewReaderAt(&blobReader{ctx, s.open}, s.header)
	if err != nil {
		return ImageContents{}, err
	}
	defer image.Close()
	layout, err := imagelayout.Read(image, s.header.VirtualSize)
	if err != nil {
		return ImageContents{}, err
	}
	found, err := layout.Root(imagelayout.Hint{Number: root.Number, Label: root.Label})
	return ImageContents{Scheme: layout.Scheme, SectorSize: layout.SectorSize, Root: found}, err
}

// blobReader reads parts of a blob, and resumes where a connection broke.
type blobReader struct {
	ctx  context.Context
	open ImageOpener
}

// ReadAt implements io.ReaderAt.
func (b *blobReader) ReadAt(p []byte, off int64) (int, error) {
	pause := minBackoff
	for done, empty := 0, 0; ; {
		n, err := b.read(p[done:], off+int64(done))
		if done += n; err == nil {
			return done, nil
		}
		if n > 0 {
			empty, pause = 0, minBackoff
		} else if empty++; empty == attemptsWithoutByte {
			return done, fmt.Errorf("the image ends at byte %d: %w", off+int64(done), err)
		}
		select {
		case <-b.ctx.Done():
			return done, b.ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackoff)
	}
}

func (b *blobReader) read(p []byte, off int64) (int, error) {
	body, err := b.open(b.ctx, off)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	return io.ReadFull(body, p)
}
