// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	headerTimeout  = 30 * time.Second
	maxRedirects   = 10
	// minProgress is how many bytes a transfer must add to reset the count of
	// failed attempts. It bounds the number of requests to a server that breaks
	// the connection after every byte.
	minProgress = 1 << 20
	// minArrival is how many bytes must arrive within the stall timeout. Without
	// it, a server that sends single bytes could keep a transfer alive forever.
	minArrival = 16 << 10
	// maxRetryAfter bounds how long a Retry-After header delays a retry.
	maxRetryAfter = 20 * time.Second
)

var errStalled = errors.New("the transfer stalled")

func retryableStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported
}

// retryError wraps a failure that is worth a retry within the same call.
type retryError struct {
	failure *Error
	after   time.Duration // requested by the server
}

func (e *retryError) Error() string { return e.failure.Message }
func (e *retryError) Unwrap() error { return e.failure }

func retryable(e *Error) error { return &retryError{failure: e} }

// retry calls attempt until it succeeds, fails with an error other than a
// retryError, or has failed Options.Attempts times in a row without progress.
// have returns the number of bytes received so far.
func (s *Store) retry(ctx context.Context, have func() int64, attempt func(context.Context) error) error {
	failed := 0
	for {
		before := have()
		err := attempt(ctx)
		var again *retryError
		if err == nil || !errors.As(err, &again) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if have()-before >= minProgress {
			failed = 0
		} else {
			failed++
		}
		if failed >= s.opts.Attempts {
			return again.failure
		}
		backoff := max(s.opts.Backoff<<min(max(failed-1, 0), 4), min(again.after, maxRetryAfter))
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// get sends a GET request without content encoding. Responses other than 200,
// 206 and 416 are errors. The transfer ends with ctx.
func (s *Store) get(ctx context.Context, url string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, failf(ReasonInvalid, err, "%q is not a URL: %v", redact(url), err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	// The checksum is that of the file, not of a compressed response body.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "pxelab")
	client := *s.opts.Client
	client.CheckRedirect = checkRedirect
	resp, err := client.Do(req)
	if err != nil {
		return nil, s.requestError(ctx, url, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection can be reused
	_ = resp.Body.Close()
	e := failf(ReasonHTTPStatus, nil, "%s returned %s%s", redact(url), status(resp.StatusCode), remedy(resp.StatusCode))
	e.StatusCode = resp.StatusCode
	if !retryableStatus(resp.StatusCode) {
		return nil, e
	}
	return nil, &retryError{failure: e, after: retryAfter(resp.Header)}
}

func remedy(code int) string {
	switch {
	case code == http.StatusNotFound || code == http.StatusGone:
		return "; correct the url"
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return "; use a url that does not require authentication"
	case retryableStatus(code):
		return "; the server may recover, or use another server"
	default:
		return ""
	}
}

func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 && n < 3600 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

// requestError returns the error of a request without a response. Only network failures
// are worth a retry within the same call.
func (s *Store) requestError(ctx context.Context, url string, err error) error {
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		return failf(ReasonForbidden, err,
			"%s may not be used: %v; use another server, or permit the address with the manager's flag --artifact-allow-cidr", redact(url), refused)
	case errors.Is(err, errDowngrade):
		return failf(ReasonForbidden, err, "%s may not be used: %v", redact(url), errDowngrade)
	case errors.Is(err, errScheme):
		return failf(ReasonForbidden, err, "%s may not be used: %v", redact(url), errScheme)
	case errors.Is(err, errCredentials):
		return failf(ReasonForbidden, err, "%s may not be used: %v", redact(url), errCredentials)
	}
	what := describe(err)
	if errors.Is(context.Cause(ctx), errStalled) {
		what = fmt.Sprintf("no response within %s", s.opts.StallTimeout)
	}
	return retryable(failf(ReasonUnreachable, err, "%s cannot be reached: %s; check the url and the network", redact(url), what))
}

// watched reads a body and resets the stall timer whenever minArrival bytes have
// arrived.
type watched struct {
	io.Reader
	timer *time.Timer
	limit time.Duration
	// arrived counts the bytes since the timer was last reset.
	arrived int
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.arrived += n; w.arrived >= minArrival {
		w.arrived = 0
		w.timer.Reset(w.limit)
	}
	return n, err
}

// watch returns a context that ends with the cause errStalled when the timer
// expires. stop releases both.
func (s *Store) watch(ctx context.Context) (_ context.Context, timer *time.Timer, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer = time.AfterFunc(s.opts.StallTimeout, func() { cancel(errStalled) })
	return ctx, timer, func() {
		timer.Stop()
		cancel(nil)
	}
}

// fetchSum downloads a checksum file and returns the checksum of the source.
func (s *Store) fetchSum(ctx context.Context, c *checked, m *meter) (checksum, error) {
	m.stage(StageChecksum, 0, 0)
	var data []byte
	err := s.retry(ctx, func() int64 { return 0 }, func(ctx context.Context) error {
		ctx, timer, stop := s.watch(ctx)
		defer stop()
		resp, err := s.get(ctx, c.sumsURL, nil)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return failf(ReasonHTTPStatus, nil, "%s returned %s to a request for the whole file", redact(c.sumsURL), status(resp.StatusCode))
		}
		data, err = io.ReadAll(io.LimitReader(&watched{Reader: resp.Body, timer: timer, limit: s.opts.StallTimeout}, maxSums+1))
		if err != nil {
			return retryable(failf(ReasonTruncated, err, "download of %s stopped after %d bytes: %s", redact(c.sumsURL), len(data), describe(err)))
		}
		return nil
	})
	if err != nil {
		return checksum{}, err
	}
	return findChecksum(data, c.entryNames(), redact(c.sumsURL))
}
