// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	headerTimeout  = 30 * time.Second
	maxRedirects   = 10
	// gettingOn is how much must arrive for a broken transfer not to count as
	// a failed attempt: without it a server that sends one byte at a time
	// would keep us for ever.
	gettingOn = 1 << 20
	// leastArrival is what must arrive within the stall timeout, for the same
	// reason: bytes that drip do not count as arriving.
	leastArrival = 16 << 10
	// maxRetryAfter bounds what a server can make us wait within one call.
	maxRetryAfter = 20 * time.Second
)

var (
	errStalled   = errors.New("next to nothing arrived for too long")
	errDowngrade = errors.New("refusing to follow a redirect from https to http")
)

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       connectTimeout,
		ForceAttemptHTTP2:     true,
	}
}

func retryableStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported
}

// retryError wraps a failure that another attempt within the same call may
// cure.
type retryError struct {
	failure *Error
	after   time.Duration // asked for by the server
}

func (e *retryError) Error() string { return e.failure.Message }
func (e *retryError) Unwrap() error { return e.failure }

func retryable(e *Error) error { return &retryError{failure: e} }

// attempts runs once until it succeeds, fails for good, or has failed as often
// as the store allows without getting on. have tells how far it got.
func (s *Store) attempts(ctx context.Context, have func() int64, once func(context.Context) error) error {
	failed := 0
	for {
		before := have()
		err := once(ctx)
		var again *retryError
		if err == nil || !errors.As(err, &again) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if have()-before >= gettingOn {
			failed = 0
		} else {
			failed++
		}
		if failed >= s.opts.Attempts {
			return again.failure
		}
		pause := max(s.opts.Backoff<<min(max(failed-1, 0), 4), min(again.after, maxRetryAfter))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// get sends a request whose answer is not decoded in any way. The response is
// 200, 206 or 416; every other one is an error. cancel ends the transfer.
func (s *Store) get(ctx context.Context, url string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, failf(ReasonInvalid, err, "%q is not a URL: %v", redact(url), err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	// What is hashed is the file, not a packed form of it.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "pxelab")
	client := *s.opts.Client
	client.CheckRedirect = checkRedirect
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, errDowngrade) {
			return nil, failf(ReasonUnreachable, err, "%s redirects to an address without TLS; use an address that does not", redact(url))
		}
		return nil, retryable(s.unreachable(ctx, url, err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so the connection can be used again
	_ = resp.Body.Close()
	e := failf(ReasonHTTPStatus, nil, "%s answers %s%s", redact(url), resp.Status, advice(resp.StatusCode))
	e.StatusCode = resp.StatusCode
	if !retryableStatus(resp.StatusCode) {
		return nil, e
	}
	return nil, &retryError{failure: e, after: retryAfter(resp.Header)}
}

func advice(code int) string {
	switch {
	case code == http.StatusNotFound || code == http.StatusGone:
		return "; correct the url"
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return "; use a url that may be read without logging in"
	case retryableStatus(code):
		return "; the server may recover, or use another"
	default:
		return ""
	}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme == "http" {
		return errDowngrade
	}
	return nil
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

func (s *Store) unreachable(ctx context.Context, url string, err error) *Error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		err = fmt.Errorf("no answer for %s", s.opts.StallTimeout)
	}
	// *url.Error repeats the address, with the password.
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "Get ") {
		err = inner
	}
	return failf(ReasonUnreachable, err, "%s cannot be reached: %v; check the address and the network", redact(url), err)
}

// watched reads a body and cancels the request when next to nothing arrives for
// the stall timeout.
type watched struct {
	io.Reader
	timer *time.Timer
	limit time.Duration
	// arrived counts the bytes since the timer was last reset.
	arrived int
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.arrived += n; w.arrived >= leastArrival {
		w.arrived = 0
		w.timer.Reset(w.limit)
	}
	return n, err
}

// watch returns a context that ends with errStalled unless the timer is reset
// in time. stop releases it.
func (s *Store) watch(ctx context.Context) (_ context.Context, timer *time.Timer, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer = time.AfterFunc(s.opts.StallTimeout, func() { cancel(errStalled) })
	return ctx, timer, func() {
		timer.Stop()
		cancel(nil)
	}
}

// fetchSum reads a remote checksum file and finds the source in it.
func (s *Store) fetchSum(ctx context.Context, c *checked, m *meter) (checksum, error) {
	m.stage(StageChecksum, 0, 0)
	var data []byte
	err := s.attempts(ctx, func() int64 { return 0 }, func(ctx context.Context) error {
		ctx, timer, stop := s.watch(ctx)
		defer stop()
		resp, err := s.get(ctx, c.sumsURL, nil)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return failf(ReasonHTTPStatus, nil, "%s answers %s", redact(c.sumsURL), resp.Status)
		}
		data, err = io.ReadAll(io.LimitReader(&watched{Reader: resp.Body, timer: timer, limit: s.opts.StallTimeout}, maxSums+1))
		if err != nil {
			return retryable(failf(ReasonTruncated, err, "%s broke off after %d bytes: %v", redact(c.sumsURL), len(data), err))
		}
		return nil
	})
	if err != nil {
		return checksum{}, err
	}
	if len(data) > maxSums {
		return checksum{}, failf(ReasonTooLarge, nil, "%s is larger than a checksum file can be; give the location of a SHA256SUMS file", redact(c.sumsURL))
	}
	return lookup(parseSums(data), c.entryNames(), redact(c.sumsURL))
}
