// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// ErrNoManager means that no manager accepts connections at the socket.
var ErrNoManager = errors.New("the manager is not reachable")

// Client is a client of the API. It holds no resources; the caller closes the
// streams it opens.
type Client struct {
	// Dial opens a connection to the manager.
	Dial func(ctx context.Context) (net.Conn, error)
}

// NewClient returns a client of the manager at a UNIX socket.
func NewClient(socket string) *Client {
	return &Client{Dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoManager, err)
		}
		return conn, nil
	}}
}

// Error is the manager's response to a request that failed.
type Error struct {
	// Status is the HTTP status code.
	Status  int
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// SSH opens a connection to the machine's SSH port. ctx bounds only the connecting.
func (c *Client) SSH(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, "ssh")
}

// Console attaches to the machine's serial console, which several clients may
// share. The stream ends when the machine is powered off. ctx bounds only the
// connecting.
func (c *Client) Console(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, "console")
}

// LogOptions configures [Client.Log].
type LogOptions struct {
	// Follow adds new output until the context ends or the machine is deleted.
	Follow bool
}

// Log returns the output of the machine's serial console so far, and new output if
// o.Follow is set. The caller closes it. ctx bounds the whole response.
func (c *Client) Log(ctx context.Context, m Ref, o LogOptions) (io.ReadCloser, error) {
	request, err := newRequest(ctx, http.MethodGet, m, "log")
	if err != nil {
		return nil, err
	}
	if o.Follow {
		request.URL.RawQuery = url.Values{"follow": {"true"}}.Encode()
	}
	return c.get(request, "the log of "+m.String())
}

// Unobserved lists the objects that the manager has not observed since it started.
func (c *Client) Unobserved(ctx context.Context) ([]Object, error) {
	return getJSON[[]Object](ctx, c, "unobserved", "the list of unobserved objects")
}

// maxJSON bounds a response in bytes: a hundred thousand objects.
const maxJSON = 64 << 20

// getJSON returns the value of an endpoint that is not one of a machine's.
func getJSON[V any](ctx context.Context, c *Client, endpoint, what string) (v V, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://manager/v1/"+endpoint, nil)
	if err != nil {
		return v, err
	}
	body, err := c.get(request, what)
	if err != nil {
		return v, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxJSON)).Decode(&v); err != nil {
		return v, fmt.Errorf("reading %s from the manager: %w", what, err)
	}
	return v, nil
}

// get sends a request for what and returns the body of the response, which the caller
// closes.
func (c *Client) get(request *http.Request, what string) (io.ReadCloser, error) {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		DisableKeepAlives: true,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("requesting %s from the manager: %w", what, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, responseError(response)
	}
	return response.Body, nil
}

// newRequest returns a request for one endpoint of a machine. The host name is a
// placeholder.
func newRequest(ctx context.Context, method string, m Ref, endpoint string) (*http.Request, error) {
	path := "/v1/namespaces/" + url.PathEscape(m.Namespace) + "/" + url.PathEscape(string(m.Kind)) + "/" +
		url.PathEscape(m.Name) + "/" + endpoint
	return http.NewRequestWithContext(ctx, method, "http://manager"+path, nil)
}

// stream opens an upgraded connection. It does not use http.Transport, whose
// response body cannot be half-closed.
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
		return nil, fmt.Errorf("requesting the %s of %s from the manager: %w", endpoint, m, err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("requesting the %s of %s from the manager: %w", endpoint, m, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		return nil, responseError(response)
	}
	return &bufferedConn{Conn: conn, r: reader}, nil
}

func responseError(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	message := strings.TrimSpace(string(text))
	if err != nil || message == "" {
		message = "the manager responded with status " + response.Status
	}
	return &Error{Status: response.StatusCode, Message: message}
}
