// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// validators identify the file that a partial download belongs to (RFC 9110,
// section 8.8). They are stored next to the partial file.
type validators struct {
	URL          string
	ETag         string // strong ETags only
	LastModified string
	Total        int64 // bytes; 0 if the server did not send a length
}

// ifRange returns the value of the If-Range header, with which the server
// resumes the download only if the file is unchanged.
func (v validators) ifRange() string {
	if v.ETag != "" {
		return v.ETag
	}
	return v.LastModified
}

// download is a transfer to a partial file. It is used by one goroutine, and by
// one process, which holds the lock of the source.
type download struct {
	s    *Store
	c    *checked
	m    *meter
	path string
	file *os.File
	have int64
	v    validators
	// resumed is set when the file consists of more than one response. A
	// checksum mismatch may then mean that the file changed in between.
	resumed bool
}

// fetchURL downloads the source and stores it. It resumes the partial download
// of an earlier call, and leaves one when it fails.
func (s *Store) fetchURL(ctx context.Context, c *checked, m *meter) (Artifact, error) {
	want := c.sum
	if c.sumsURL != "" {
		var err error
		if want, err = s.fetchSum(ctx, c, m); err != nil {
			return Artifact{}, err
		}
	}
	a, err := s.fetchContent(ctx, c, want, m)
	var e *Error
	if c.sumsURL == "" || !errors.As(err, &e) || e.Reason != ReasonChecksumMismatch {
		return a, err
	}
	// A file that is republished during the download changes together with its
	// checksum file, but not at the same instant. Another round sees both updated.
	again, sumErr := s.fetchSum(ctx, c, m)
	if sumErr != nil || again == want {
		return a, err
	}
	return s.fetchContent(ctx, c, again, m)
}

func (s *Store) fetchContent(ctx context.Context, c *checked, want checksum, m *meter) (Artifact, error) {
	if c.sumsURL != "" && want.algo == "sha256" { // another source may have provided the same content
		if a, ok, err := s.recheck(ctx, want.hex, m); err != nil {
			return Artifact{}, err
		} else if ok {
			return a, s.remember(c, digests{sha256: want.hex}, nil)
		}
	}
	d := &download{s: s, c: c, m: m, path: s.path("partial", c.key())}
	sums, err := d.run(ctx, want)
	if err != nil {
		return Artifact{}, err
	}
	a, err := s.adopt(d.path, sums, c, nil)
	if err == nil {
		_ = os.Remove(d.metaPath()) // on failure, removed later as stale
	}
	return a, err
}

func (d *download) metaPath() string { return d.path + ".json" }

// run downloads the file and verifies it. On a checksum mismatch of a resumed
// download it downloads the file again from scratch.
func (d *download) run(ctx context.Context, want checksum) (_ digests, err error) {
	if d.file, err = os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, fileMode); err != nil {
		return digests{}, noSpace(err, d.path, 0)
	}
	defer func() { err = errors.Join(err, d.file.Close()) }()
	if err := d.load(); err != nil {
		return digests{}, err
	}
	for {
		d.m.stage(StageDownloading, d.have, d.v.Total)
		if err := d.s.retry(ctx, func() int64 { return d.have }, d.transfer); err != nil {
			return digests{}, err
		}
		sums, err := hashFile(ctx, d.path, want.algo == "sha512", d.m)
		if err != nil {
			return digests{}, err
		}
		if sums.has(want) {
			return sums, nil
		}
		resumed := d.resumed
		if err := d.discard(); err != nil {
			return digests{}, err
		}
		if !resumed {
			return digests{}, mismatch(d.c)
		}
	}
}

// load reads the partial download of an earlier call.
func (d *download) load() error {
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil
	}
	if !readRecord(d.metaPath(), &d.v) || d.v.URL != d.c.URL || d.v.Total > 0 && info.Size() > d.v.Total {
		return d.discard()
	}
	d.have = info.Size()
	d.resumed = true
	return nil
}

// discard drops the partial download.
func (d *download) discard() error {
	d.have = 0
	d.resumed = false
	d.v = validators{}
	if err := d.file.Truncate(0); err != nil {
		return fmt.Errorf("truncating partial download: %w", err)
	}
	return nil
}

// transfer sends one request and appends the body of the response to the file.
func (d *download) transfer(ctx context.Context) error {
	if d.v.Total > 0 && d.have == d.v.Total {
		return nil
	}
	if d.v.Total > 0 { // do not send a request for a file that does not fit
		if err := d.s.checkSpace(d.s.path("partial"), d.v.Total-d.have); err != nil {
			return err
		}
	}
	ctx, timer, stop := d.s.watch(ctx)
	defer stop()
	header := http.Header{}
	if d.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if v := d.v.ifRange(); v != "" {
			header.Set("If-Range", v)
		}
	}
	resp, err := d.s.get(ctx, d.c.URL, header)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
		err = d.startOver(resp)
	case http.StatusPartialContent:
		err = d.resume(resp)
	default:
		if d.have == 0 {
			return failf(ReasonHTTPStatus, nil, "%s returned %s to a request for the whole file", redact(d.c.URL), status(resp.StatusCode))
		}
		err = d.changed("the file is now smaller than the downloaded part")
	}
	if err != nil {
		return err
	}
	if err := d.s.checkSize(d.c, d.v.Total); err != nil {
		return errors.Join(err, d.discard())
	}
	if err := d.s.checkSpace(d.s.path("partial"), d.v.Total-d.have); err != nil {
		return err
	}
	d.m.stage(StageDownloading, d.have, d.v.Total)
	return d.appendBody(ctx, &watched{Reader: resp.Body, timer: timer, limit: d.s.opts.StallTimeout})
}

// startOver prepares for a response that contains the whole file.
func (d *download) startOver(resp *http.Response) error {
	if err := d.discard(); err != nil {
		return err
	}
	d.v = validators{URL: d.c.URL, LastModified: resp.Header.Get("Last-Modified")}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		d.v.ETag = tag
	}
	if resp.ContentLength > 0 {
		d.v.Total = resp.ContentLength
	}
	return d.s.writeRecord(d.metaPath(), d.v)
}

// resume checks that a partial response continues the file exactly where it
// ends.
func (d *download) resume(resp *http.Response) error {
	start, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	tag := resp.Header.Get("ETag")
	switch {
	case !ok || start != d.have:
		return d.changed("the server sent another range than requested")
	case d.v.Total > 0 && total > 0 && total != d.v.Total:
		return d.changed("the size of the file changed")
	case d.v.ETag != "" && tag != "" && tag != d.v.ETag:
		return d.changed("the ETag of the file changed")
	}
	d.resumed = true
	if d.v.Total == 0 {
		d.v.Total = total
	}
	return nil
}

// changed discards the partial download and returns an error that causes a
// retry.
func (d *download) changed(why string) error {
	if err := d.discard(); err != nil {
		return err
	}
	return retryable(failf(ReasonTruncated, nil, "%s could not be resumed: %s", redact(d.c.URL), why))
}

// parseContentRange parses "bytes START-END/TOTAL"; total is 0 for "*".
func parseContentRange(s string) (start, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(s, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	start, err := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	if err != nil || err2 != nil || start < 0 || end < start {
		return 0, 0, false
	}
	if size == "*" {
		return start, 0, true
	}
	total, err = strconv.ParseInt(size, 10, 64)
	return start, total, err == nil && end < total
}

// appendBody appends the body to the file.
func (d *download) appendBody(ctx context.Context, body io.Reader) error {
	buf := make([]byte, copyBuffer)
	for {
		want := int64(len(buf))
		if d.v.Total > 0 { // ignore bytes beyond the announced length
			want = min(want, d.v.Total-d.have)
		}
		if want == 0 {
			return nil
		}
		n, err := body.Read(buf[:want])
		if n > 0 {
			if _, werr := d.file.WriteAt(buf[:n], d.have); werr != nil {
				return noSpace(fmt.Errorf("writing %s: %w", d.path, werr), d.path, max(d.v.Total-d.have, int64(n)))
			}
			d.have += int64(n)
			d.m.at(d.have)
			if err := d.s.checkSize(d.c, d.have); err != nil {
				return errors.Join(err, d.discard())
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && d.v.Total == 0:
			// The server sent no length: the checksum decides.
			d.v.Total = d.have
			return nil
		case errors.Is(err, io.EOF) && d.have == d.v.Total:
			return nil
		default:
			if errors.Is(context.Cause(ctx), errStalled) {
				err = errStalled
			}
			return retryable(d.truncated(err))
		}
	}
}

func (d *download) truncated(err error) *Error {
	of := ""
	if d.v.Total > 0 {
		of = fmt.Sprintf(" of %d", d.v.Total)
	}
	return failf(ReasonTruncated, err,
		"download of %s stopped after %d%s bytes: %s; the next attempt resumes it, or use another server",
		redact(d.c.URL), d.have, of, describe(err))
}
