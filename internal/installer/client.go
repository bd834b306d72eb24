// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

const (
	// stallTimeout is how long a connection may make no progress before it
	// counts as lost. The response to StageDone may take up to 10 s.
	stallTimeout = 30 * time.Second
	// retryTimeout is how long a request is retried while the server does not
	// respond; it exceeds any restart or upgrade of the server.
	retryTimeout = 10 * time.Minute

	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// permanentError is an error that a retry cannot resolve.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Client implements the machine's side of the protocol in package install. Its
// methods block until they succeed, fail for good or ctx ends, and are safe for
// concurrent use.
type Client struct {
	base *url.URL
	http *http.Client
	// waiting is called with the reason for each retry, and with "" when a
	// request succeeds after retries.
	waiting func(reason string)
}

// ClientOptions are the options of a Client; the zero value selects the defaults.
type ClientOptions struct {
	// Waiting is called with the reason for each retry, and with "" when a request
	// succeeds after retries.
	Waiting func(reason string)
	// Dial connects to an address as [net.Dialer.DialContext] does, which is the
	// default. A simulated machine dials through its own TCP/IP stack.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ReadBuffer is the size of a connection's read buffer in bytes, default 64 KiB.
	ReadBuffer int
}

// dialTimeout bounds one attempt to connect.
const dialTimeout = 5 * time.Second

// NewClient returns a client for a machine's base URL.
func NewClient(base *url.URL, o ClientOptions) *Client {
	if o.Waiting == nil {
		o.Waiting = func(string) {}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	if o.ReadBuffer == 0 {
		o.ReadBuffer = 64 << 10
	}
	return &Client{
		base:    base,
		waiting: o.Waiting,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, dialTimeout)
				defer cancel()
				c, err := o.Dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &stallConn{Conn: c}, nil
			},
			DisableCompression:    true,
			ResponseHeaderTimeout: stallTimeout,
			IdleConnTimeout:       stallTimeout / 2,
			ReadBufferSize:        o.ReadBuffer,
		}},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// stallConn fails reads and writes that make no progress for stallTimeout. The
// deadline is up to a fifth too early, because moving it at every read would
// cost as much as a small read.
type stallConn struct {
	net.Conn
	extended atomic.Int64 // when the deadline was last moved, in Unix nanoseconds
}

func (c *stallConn) extend() error {
	now := time.Now()
	if now.UnixNano()-c.extended.Load() < int64(stallTimeout/5) {
		return nil
	}
	c.extended.Store(now.UnixNano())
	return c.SetDeadline(now.Add(stallTimeout))
}

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.extend(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.extend(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// retry calls try with backoff until it succeeds, returns a permanentError,
// retryTimeout has passed or ctx ends.
func (c *Client) retry(ctx context.Context, try func(context.Context) error) error {
	deadline := time.Now().Add(retryTimeout)
	pause := minBackoff
	for waited := false; ; waited = true {
		err := try(ctx)
		if err == nil {
			if waited {
				c.waiting("")
			}
			return nil
		}
		var permanent permanentError
		if errors.As(err, &permanent) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("gave up after %s: %w", retryTimeout, err)
		}
		c.waiting(fmt.Sprintf("waiting for the server: %v", err))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackoff)
	}
}

func (c *Client) url(name string) string { return c.base.JoinPath(name).String() }

// Plan fetches the plan. It retries until the server responds with a plan.
func (c *Client) Plan(ctx context.Context) (installerapi.Plan, error) {
	var plan installerapi.Plan
	err := c.retry(ctx, func(ctx context.Context) error {
		resp, err := c.get(ctx, "plan", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return statusError(resp)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, &plan); err != nil {
			return permanentError{fmt.Errorf("this installer cannot parse the plan: %w", err)}
		}
		return nil
	})
	if err != nil {
		return plan, fmt.Errorf("fetching the plan: %w", err)
	}
	return plan, nil
}

func (c *Client) get(ctx context.Context, name string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(name), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	return c.http.Do(req)
}

// statusError includes the response body, which contains the server's reason
// and remedy.
func statusError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	return fmt.Errorf("%s: %s %s", resp.Request.URL.Path, resp.Status, strings.TrimSpace(string(body)))
}

// Image opens the image blob at an offset. It retries until the server
// responds. The digest is compared with the blob's strong entity tag, so that
// bytes of another image are never returned.
func (c *Client) Image(ctx context.Context, offset int64, digest string) (io.ReadCloser, error) {
	var body io.ReadCloser
	err := c.retry(ctx, func(ctx context.Context) error {
		var err error
		body, err = c.tryImage(ctx, offset, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetching the image from byte %d: %w", offset, err)
	}
	return body, nil
}

func (c *Client) tryImage(ctx context.Context, offset int64, digest string) (io.ReadCloser, error) {
	tag := `"` + digest + `"`
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		header.Set("If-Range", tag)
	}
	resp, err := c.get(ctx, "image", header)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (io.ReadCloser, error) {
		resp.Body.Close()
		return nil, err
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return fail(permanentError{fmt.Errorf("the server's image ends before byte %d: %w", offset, statusError(resp))})
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return fail(statusError(resp))
	}
	if got := resp.Header.Get("ETag"); got != "" && got != tag {
		return fail(permanentError{fmt.Errorf("the server now has image %s, the plan requires %s", got, tag)})
	}
	if offset == 0 {
		return resp.Body, nil
	}
	if resp.StatusCode == http.StatusPartialContent {
		if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", offset)) {
			return fail(fmt.Errorf("requested the image from byte %d, got Content-Range %q", offset, got))
		}
		return resp.Body, nil
	}
	// A proxy without support for ranges: skip the bytes already fetched.
	if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
		return fail(err)
	}
	return resp.Body, nil
}

// Report sends one report, without retries.
func (c *Client) Report(ctx context.Context, p installerapi.Progress) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url("progress"), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return statusError(resp)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return err
}
