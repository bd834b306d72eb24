// SPDX-License-Identifier: Apache-2.0

// Package image makes of verified image files what machines need: the blob that
// the installer streams, and the base that a virtual machine's disk overlays.
// Both are made once per content and kept in the artifact store. The package
// fetches nothing and starts no machine.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/imagestream"
)

// converterVersion is raised when the same image is to be converted anew.
const converterVersion = 1

// Stream is an image as the installer wants it.
type Stream struct {
	artifact.Artifact        // the blob, see package imagestream
	Pin               string // imagestream.Header.Digest; what an installer is to be told
	VirtualSize       int64  // bytes of the smallest disk that it fits on
	DataBytes         int64  // bytes that an installation writes
}

// Base is an image as a backing file for disk.Tool.CreateOverlay.
type Base struct {
	artifact.Artifact
	Format      string // disk.FormatQCOW2 or disk.FormatRaw
	VirtualSize int64  // bytes of the smallest disk that overlays it
}

// Images makes and keeps derived images. Its methods may be called
// concurrently; calls for the same image share the work.
type Images struct {
	store *artifact.Store
	tool  *disk.Tool
	// bases are the virtual sizes of bases that were found good: content does
	// not change, so one look by this process is enough.
	bases sync.Map // of baseKey to int64
}

type baseKey struct{ digest, format string }

// New returns Images that keep what they make in store.
func New(store *artifact.Store, tool *disk.Tool) *Images {
	return &Images{store: store, tool: tool}
}

// EnsureStream returns the image as a blob for the installer, making it when
// it is not there. format is one of the image formats of package artifact. It
// blocks until done or ctx ends. An image that cannot be used yields a
// *disk.Error, a full disk that or an *artifact.Error.
func (i *Images) EnsureStream(ctx context.Context, a artifact.Artifact, format string, progress func(artifact.Progress)) (Stream, error) {
	recipe := fmt.Sprintf("stream version %d.%d of %s", imagestream.Version, converterVersion, format)
	d, err := i.store.Derive(ctx, a, recipe, progress, func(ctx context.Context, b *artifact.Build) (map[string]string, error) {
		return i.buildStream(ctx, a, format, b)
	})
	if err != nil {
		return Stream{}, err
	}
	s := Stream{Artifact: d.Artifact, Pin: d.Meta["pin"]}
	s.VirtualSize, err = strconv.ParseInt(d.Meta["virtualSize"], 10, 64)
	data, err2 := strconv.ParseInt(d.Meta["dataBytes"], 10, 64)
	s.DataBytes = data
	return s, errors.Join(err, err2)
}

func (i *Images) buildStream(ctx context.Context, a artifact.Artifact, format string, b *artifact.Build) (map[string]string, error) {
	raw := a.Path
	if format == artifact.FormatRaw {
		if _, err := i.tool.Inspect(ctx, raw, format); err != nil {
			return nil, err
		}
	} else {
		raw = filepath.Join(b.Dir, "raw")
		// Unpacking and packing are about as long: each gets half of the bar.
		if err := i.tool.ToRaw(ctx, a.Path, format, raw, half(b, 0)); err != nil {
			return nil, err
		}
	}
	h, err := encode(ctx, raw, b)
	if err != nil {
		return nil, fmt.Errorf("making image stream of %s: %w", a.Digest, err)
	}
	return map[string]string{
		"pin":         h.Digest(),
		"virtualSize": strconv.FormatInt(h.VirtualSize, 10),
		"dataBytes":   strconv.FormatInt(h.DataBytes, 10),
	}, nil
}

// barSize is the total of the progress of a conversion: the sizes of its two
// halves have nothing to do with each other, so it counts in parts.
const barSize = 2_000_000

// half reports the first or second half of a conversion.
func half(b *artifact.Build, part int64) func(done, total int64) {
	return func(done, total int64) {
		if total > 0 {
			share := float64(done) / float64(total)
			b.Report(artifact.StageConverting, part*barSize/2+int64(share*barSize/2), barSize)
		}
	}
}

func encode(ctx context.Context, raw string, b *artifact.Build) (_ *imagestream.Header, err error) {
	src, err := os.Open(raw)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	st, err := src.Stat()
	if err != nil {
		return nil, err
	}
	dst, err := os.OpenFile(b.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	return imagestream.Write(ctx, dst, src, st.Size(), imagestream.Options{Progress: half(b, 1)})
}

// EnsureBase returns the image as a backing file. qcow2 and raw images are
// used as they are in the store, checked but not copied; packed ones are
// unpacked once. It blocks and fails like EnsureStream.
func (i *Images) EnsureBase(ctx context.Context, a artifact.Artifact, format string, progress func(artifact.Progress)) (Base, error) {
	base := Base{Artifact: a, Format: format}
	if format != artifact.FormatRaw && format != artifact.FormatQCOW2 {
		recipe := fmt.Sprintf("raw version %d of %s", converterVersion, format)
		d, err := i.store.Derive(ctx, a, recipe, progress, func(ctx context.Context, b *artifact.Build) (map[string]string, error) {
			return nil, i.tool.ToRaw(ctx, a.Path, format, b.Path, func(done, total int64) {
				b.Report(artifact.StageConverting, done, total)
			})
		})
		if err != nil {
			return Base{}, err
		}
		base.Artifact, base.Format = d.Artifact, disk.FormatRaw
	}
	key := baseKey{base.Digest, base.Format}
	if size, ok := i.bases.Load(key); ok {
		base.VirtualSize = size.(int64)
		return base, nil
	}
	info, err := i.tool.Inspect(ctx, base.Path, base.Format)
	if err != nil {
		return Base{}, err
	}
	i.bases.Store(key, info.VirtualSize)
	base.VirtualSize = info.VirtualSize
	return base, nil
}
