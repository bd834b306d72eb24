// SPDX-License-Identifier: Apache-2.0

package qemuimg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/imageformat"
)

// packed is a compressed image that is being read.
type packed struct {
	name string // of the file, in messages
	in   *counted
	// content is the decompressed data.
	content *bufio.Reader
}

// detect returns the format of the content, Raw or QCOW2, without consuming it.
func (p *packed) detect() (string, error) {
	// An error is returned again when the content is read.
	head, _ := p.content.Peek(imageformat.HeadSize)
	if what, remedy := imageformat.Unsupported(head); what != "" {
		return "", failf(ReasonUnsupportedFormat, nil, "%s contains %s, which is not supported as an image; %s", p.name, what, remedy)
	}
	format := imageformat.Detect(head)
	if format != imageformat.Raw && format != imageformat.QCOW2 {
		return "", failf(ReasonUnsupportedFormat, nil, "%s contains another compressed file (%s); decompress it once", p.name, format)
	}
	return format, nil
}

// copyOut writes the content to tmp.
func (t *Tool) copyOut(ctx context.Context, p *packed, tmp *os.File) error {
	n, err := copySparse(tmp, io.LimitReader(p.content, t.opts.MaxVirtualSize+1))
	if read := p.in.read(); err != nil && read > 0 {
		// Assumes that the rest has the same compression ratio.
		rest := float64(p.in.total-read) / float64(read)
		err = noSpaceFor(err, tmp.Name(), int64(float64(allocated(tmp))*rest))
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case n == 0:
		return failf(ReasonUnsupportedFormat, nil, "%s contains no data; use another image", p.name)
	}
	return t.checkSize(p.name, n)
}

// unpackQCOW2 decompresses a qcow2 image to a temporary file, which is inspected as any
// other, and converts it to dst. Each of the two is half of the progress.
func (t *Tool) unpackQCOW2(ctx context.Context, p *packed, dst string, progress func(done, total int64)) (err error) {
	abs, err := safePath(dst)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".tmp-qcow2-")
	if err != nil {
		return noSpace(fmt.Errorf("decompressing %s: %w", p.name, err), abs)
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()
	p.in.follow(func(done, total int64) { progress(done/2, total) })
	if err := t.copyOut(ctx, p, tmp); err != nil {
		return noSpace(err, abs)
	}
	image := subject{path: tmp.Name(), name: "the image in " + p.name}
	info, err := t.inspect(ctx, image, imageformat.QCOW2)
	if err != nil {
		return err
	}
	return t.convert(ctx, image, dst, info.VirtualSize, func(done, total int64) {
		half := float64(p.in.total) / 2
		progress(int64(half+half*float64(done)/float64(max(total, 1))), p.in.total)
	})
}
