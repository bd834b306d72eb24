// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// ErrNoManager: nothing answers at the manager's socket.
var ErrNoManager = errors.New("the manager does not answer")

// Client talks to the API. It holds no resources; every stream is closed by
// whoever asked for it.
type Client struct {
	// Dial connects to the manager.
	Dial func(ctx context.Context) (net.Conn, error)
}

// NewClient talks to the manager behind a UNIX socket.
func NewClient(socket string) *Client {
	return &Client{Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoManager, err)
		}
		return conn, nil
	}}
}

// Error is what the manager answered instead of a stream.
type Error struct {
	// Status is an HTTP status.
	Status  int
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// SSH connects to the machine's SSH port. ctx bounds the connecting only.
func (c *Client) SSH(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, "ssh")
}

// Console attaches to the machine's serial console; others may be attached as
// well. The stream ends when the machine is powered off. ctx bounds the
// connecting only.
func (c *Client) Console(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, "console")
}

// Log is all that the machine's serial console said, and with follow what it
// says from now on, until ctx ends or the machine is deleted.
func (c *Client) Log(ctx context.Context, m Ref, follow bool) (io.ReadCloser, error) {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		DisableKeepAlives: true,
	}
	request, err := newRequest(ctx, http.MethodGet, m, "log")
	if err != nil {
		return nil, err
	}
	if follow {
		request.URL.RawQuery = url.Values{"follow": {"true"}}.Encode()
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("asking the manager for the log of %s: %w", m, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, answeredError(response)
	}
	return response.Body, nil
}

// newRequest asks for one endpoint of a machine. The host is for the form only.
func newRequest(ctx context.Context, method string, m Ref, endpoint string) (*http.Request, error) {
	path := "/v1/namespaces/" + url.PathEscape(m.Namespace) + "/" + url.PathEscape(string(m.Kind)) + "/" +
		url.PathEscape(m.Name) + "/" + endpoint
	return http.NewRequestWithContext(ctx, method, "http://manager"+path, nil)
}

// stream asks for an upgrade by hand: net/http's transport gives a body that
// cannot be closed by halves.
func (c *Client) stream(ctx context.Context, m Ref, endpoint string) (_ net.Conn, err error) {
	request, err := newRequest(ctx, http.MethodPost, m, endpoint)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "tcp")

	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
		}
	}()
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("asking the manager for the %s of %s: %w", endpoint, m, err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("asking the manager for the %s of %s: %w", endpoint, m, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, answeredError(response)
	}
	return &bufferedConn{Conn: conn, r: reader}, nil
}

func answeredError(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	message := strings.TrimSpace(string(text))
	if err != nil || message == "" {
		message = "the manager answered " + response.Status
	}
	return &Error{Status: response.StatusCode, Message: message}
}
