// SPDX-License-Identifier: Apache-2.0

// Package convert converts verified image files to the forms that machines need:
// the blob that the installer streams, and the base image of a virtual machine's
// overlay disk. Each conversion is done once per content and stored in the
// artifact store. The package downloads nothing and starts no machines.
package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/imageformat"
	"github.com/pxelab/pxelab/internal/imagelayout"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// converterVersion must be increased to convert existing images of a format again.
func converterVersion(format string) int {
	if format == imageformat.QCOW2 || format == imageformat.Raw {
		return 1
	}
	return 2 // looks at what it unpacks
}

func streamRecipe(format string) string {
	return fmt.Sprintf("stream version %d.%d of %s", imagestream.Version, converterVersion(format), format)
}

func baseRecipe(format string) string {
	return fmt.Sprintf("raw version %d of %s", converterVersion(format), format)
}

// IsCurrent reports whether recipe is one that Images converts with. Content of other
// versions stays in the store until it is removed.
func IsCurrent(recipe string) bool {
	return slices.ContainsFunc(imageformat.All(), func(format string) bool {
		return recipe == streamRecipe(format) || recipe == baseRecipe(format)
	})
}

// Stream is an image in the form that the installer reads.
type Stream struct {
	artifact.Artifact        // the blob, see package imagestream
	Pin               string // imagestream.Header.Digest, which the installer verifies
	VirtualSize       int64  // bytes of the smallest disk that the image fits on
	DataBytes         int64  // bytes that an installation writes
}

// Base is an image in the form of a backing file for qemuimg.Tool.CreateOverlay.
type Base struct {
	artifact.Artifact
	Format      string // imageformat.QCOW2 or imageformat.Raw
	VirtualSize int64  // bytes of the smallest overlay
}

// Images creates and stores derived images. Its methods are safe for concurrent
// use; concurrent calls for the same image share the work.
type Images struct {
	store *artifact.Store
	tool  *qemuimg.Tool
	// bases contains the virtual sizes of the bases that passed inspection.
	// Content never changes, so one inspection per process is enough.
	bases sync.Map // baseKey -> int64
	// layouts contains the digests of the streams whose partitions passed inspection.
	layouts sync.Map // string -> bool
	slots   chan struct{}
}

type baseKey struct{ digest, format string }

// New returns Images that store derived images in store.
func New(store *artifact.Store, tool *qemuimg.Tool) *Images {
	return &Images{store: store, tool: tool, slots: make(chan struct{}, max(2, runtime.NumCPU()/2))}
}

// Turn waits until a conversion may be built and returns the function that is called when
// it has ended. The error is that of ctx.
type Turn func(ctx context.Context) (release func(), err error)

type turnKey struct{}

// WithTurn returns a context in which each conversion waits for turn, which the caller
// limits. Without it, conversions wait for one of a few slots in their order.
func WithTurn(ctx context.Context, turn Turn) context.Context {
	return context.WithValue(ctx, turnKey{}, turn)
}

// wait is the Turn of a context without one.
func (i *Images) wait(ctx context.Context) (release func(), err error) {
	select {
	case i.slots <- struct{}{}:
		return func() { <-i.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// shownAfter is how long a conversion may wait for its turn before it reports that.
const shownAfter = 100 * time.Millisecond

// await waits for the turn of a conversion and reports StageWaiting meanwhile.
func (i *Images) await(ctx context.Context, b *artifact.Build) (release func(), err error) {
	turn, ok := ctx.Value(turnKey{}).(Turn)
	if !ok {
		turn = i.wait
	}
	granted := make(chan struct{})
	go func() {
		defer close(granted)
		release, err = turn(ctx)
	}()
	select {
	case <-granted:
	case <-time.After(shownAfter):
		b.Report(artifact.StageWaiting, 0, 0)
		<-granted
	}
	return release, err
}

// derive is Store.Derive for a conversion. Each keeps a processor busy for minutes, so
// only few are built at a time; the others report StageWaiting.
func (i *Images) derive(
	ctx context.Context, a artifact.Artifact, recipe string, progress func(artifact.Progress),
	build func(context.Context, *artifact.Build) (map[string]string, error),
) (artifact.Derived, error) {
	return i.store.Derive(ctx, a, recipe, progress, func(ctx context.Context, b *artifact.Build) (map[string]string, error) {
		release, err := i.await(ctx, b)
		if err != nil {
			return nil, err
		}
		defer release()
		return build(ctx, b)
	})
}

// EnsureStream returns the image as a blob for the installer and creates the
// blob if it is not in the store. format is one of the image formats of package
// artifact. It blocks until done or ctx ends. The error for an unusable image is
// a *qemuimg.Error, the error for a full disk a *qemuimg.Error or an *artifact.Error.
func (i *Images) EnsureStream(ctx context.Context, a artifact.Artifact, format string, progress func(artifact.Progress)) (Stream, error) {
	d, err := i.derive(ctx, a, streamRecipe(format), progress, func(ctx context.Context, b *artifact.Build) (map[string]string, error) {
		return i.buildStream(ctx, a, format, b)
	})
	if err != nil {
		return Stream{}, err
	}
	s := Stream{Artifact: d.Artifact, Pin: d.Meta["pin"]}
	s.VirtualSize, err = strconv.ParseInt(d.Meta["virtualSize"], 10, 64)
	data, err2 := strconv.ParseInt(d.Meta["dataBytes"], 10, 64)
	s.DataBytes = data
	return s, errors.Join(err, err2, i.checkLayout(s))
}

// checkLayout refuses an image that cannot be installed, whatever the target. It reads the
// stream, so that images that were converted before are checked too.
func (i *Images) checkLayout(s Stream) error {
	if _, checked := i.layouts.Load(s.Digest); checked {
		return nil
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := imagestream.ReadHeader(f, s.Pin)
	if err != nil {
		return err
	}
	image, err := imagestream.NewReaderAt(f, h)
	if err != nil {
		return err
	}
	defer image.Close()
	err = imagelayout.Check(image, h.VirtualSize)
	var refused *imagelayout.UnsupportedError
	if errors.As(err, &refused) {
		return &qemuimg.Error{Reason: qemuimg.ReasonUnsupportedLayout, Message: err.Error(), Err: err}
	}
	if err != nil {
		return fmt.Errorf("inspecting the image: %w", err)
	}
	i.layouts.Store(s.Digest, true)
	return nil
}

func (i *Images) buildStream(ctx context.Context, a artifact.Artifact, format string, b *artifact.Build) (map[string]string, error) {
	raw := a.Path
	if format == imageformat.Raw {
		if _, err := i.tool.Inspect(ctx, raw, format); err != nil {
			return nil, err
		}
	} else {
		raw = filepath.Join(b.Dir, "raw")
		// Decompressing and encoding take about the same time, so each is half of
		// the progress.
		if err := i.tool.ToRaw(ctx, a.Path, format, raw, half(b, 0)); err != nil {
			return nil, err
		}
	}
	h, err := encode(ctx, raw, b)
	if err != nil {
		return nil, fmt.Errorf("creating image stream of %s: %w", a.Digest, err)
	}
	return map[string]string{
		"pin":         h.Digest(),
		"virtualSize": strconv.FormatInt(h.VirtualSize, 10),
		"dataBytes":   strconv.FormatInt(h.DataBytes, 10),
	}, nil
}

// barSize is the total of a conversion's progress. Its unit is a fraction of the
// conversion, because the byte counts of the two halves are unrelated.
const barSize = 2_000_000

// half returns a progress function for the first (0) or second (1) half of a
// conversion.
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

// EnsureBase returns the image as a backing file. It inspects qcow2 and raw
// images but does not copy them; it decompresses other formats once. It blocks
// and fails like EnsureStream.
func (i *Images) EnsureBase(ctx context.Context, a artifact.Artifact, format string, progress func(artifact.Progress)) (Base, error) {
	base := Base{Artifact: a, Format: format}
	if format != imageformat.Raw && format != imageformat.QCOW2 {
		d, err := i.derive(ctx, a, baseRecipe(format), progress, func(ctx context.Context, b *artifact.Build) (map[string]string, error) {
			return nil, i.tool.ToRaw(ctx, a.Path, format, b.Path, func(done, total int64) {
				b.Report(artifact.StageConverting, done, total)
			})
		})
		if err != nil {
			return Base{}, err
		}
		base.Artifact = d.Artifact
		base.Format = imageformat.Raw
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
