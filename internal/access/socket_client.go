// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// ErrNoManager means that no manager accepts connections at the socket, or from the
// cluster's API server.
var ErrNoManager = errors.New("the manager is not reachable")

// SocketClient is a client of the host API. It holds no resources.
type SocketClient struct{ socket string }

// NewSocketClient returns a client of the manager at a UNIX socket.
func NewSocketClient(socket string) *SocketClient { return &SocketClient{socket: socket} }

// SocketError is the manager's response to a request that failed.
type SocketError struct {
	// Status is the HTTP status code.
	Status  int
	Message string
}

// Error implements error.
func (e *SocketError) Error() string { return e.Message }

// Capacity returns what the machines of the manager's host use. ctx bounds the request.
func (c *SocketClient) Capacity(ctx context.Context) (Capacity, error) {
	return getJSON[Capacity](ctx, c, "capacity", "the capacity")
}

// Unobserved lists the objects that the manager has not observed since it started. ctx
// bounds the request.
func (c *SocketClient) Unobserved(ctx context.Context) ([]Object, error) {
	return getJSON[[]Object](ctx, c, "unobserved", "the list of unobserved objects")
}

// maxJSON bounds a response in bytes: a hundred thousand objects.
const maxJSON = 64 << 20

func getJSON[V any](ctx context.Context, c *SocketClient, path, what string) (v V, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://manager/v1/"+path, nil)
	if err != nil {
		return v, err
	}
	transport := &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return v, fmt.Errorf("requesting %s from the manager: %w", what, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return v, socketError(response)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxJSON)).Decode(&v); err != nil {
		return v, fmt.Errorf("reading %s from the manager: %w", what, err)
	}
	return v, nil
}

func (c *SocketClient) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoManager, err)
	}
	return conn, nil
}

func socketError(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	message := strings.TrimSpace(string(text))
	if err != nil || message == "" {
		message = "the manager responded with status " + response.Status
	}
	return &SocketError{Status: response.StatusCode, Message: message}
}
