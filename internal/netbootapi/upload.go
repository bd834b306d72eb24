// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// UploadBlob ensures that netbootd has the blob: it sends the missing part of
// content and calls progress (which may be nil) with the number of bytes that
// netbootd has. It returns nil once netbootd has verified the whole blob. netbootd
// keeps a blob that nothing names for a while. The next call resumes a failed upload.
// ErrDigest means that content does not match the digest of blob. Calls of
// progress do not overlap; neither progress nor content is used after the return.
func (c *Client) UploadBlob(ctx context.Context, blob Blob, content io.ReaderAt, progress func(done int64)) error {
	if err := c.uploadBlob(ctx, blob, content, progress); err != nil {
		return fmt.Errorf("uploading %s to %s: %w", blob.Digest, c.address, err)
	}
	return nil
}

func (c *Client) uploadBlob(ctx context.Context, blob Blob, content io.ReaderAt, progress func(done int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	path := "/v1/blobs/" + blob.Digest
	size := strconv.FormatInt(blob.Size, 10)
	resp, err := c.send(ctx, request{method: http.MethodHead, path: path, query: url.Values{"size": {size}}})
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	offset, err := strconv.ParseInt(resp.Header.Get(HeaderOffset), 10, 64)
	if err != nil || offset < 0 || offset > blob.Size {
		return fmt.Errorf("unexpected offset %q of %d", resp.Header.Get(HeaderOffset), blob.Size)
	}
	progress(offset)
	if resp.Header.Get(HeaderComplete) == "true" {
		return nil
	}
	// A dead peer shows as reads of content that stop. The final response may
	// take as long as one pass over the content, which netbootd verifies.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(2*IdleLimit, func() { cancel(ErrSilent) })
	defer watchdog.Stop()
	body := &progressReader{
		r: io.NewSectionReader(content, offset, blob.Size-offset),
		moved: func(n int64) {
			watchdog.Reset(2 * IdleLimit)
			progress(offset + n)
		},
	}
	// The transport may continue to send for a moment after an early response.
	defer body.Close()
	query := url.Values{"offset": {strconv.FormatInt(offset, 10)}, "size": {size}}
	resp, err = c.send(ctx, request{method: http.MethodPut, path: path, query: query, body: body, size: blob.Size - offset})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// progressReader calls moved with the number of bytes read so far. Close waits
// for a Read in progress; r and moved are not used afterwards.
type progressReader struct {
	r     io.Reader
	moved func(int64)

	mu     sync.Mutex
	n      int64
	closed bool
}

func (p *progressReader) Read(buf []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, fs.ErrClosed
	}
	n, err := p.r.Read(buf)
	if n > 0 {
		p.n += int64(n)
		p.moved(p.n)
	}
	return n, err
}

func (p *progressReader) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}
