// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
)

// Client is a client of the access API, through a cluster's API server and with a user's
// credentials. It holds no resources; the caller closes the streams it opens. Errors of
// the API are those of k8s.io/apimachinery/pkg/api/errors, so [apierrors.IsForbidden] and
// its like apply.
type Client struct {
	config *rest.Config
	base   *url.URL
}

// NewClient returns a client of the cluster that config describes.
func NewClient(config *rest.Config) (*Client, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's address: %w", err)
	}
	return &Client{config: config, base: base}, nil
}

// Available returns nil if the API server reaches a manager. ctx bounds the request.
func (c *Client) Available(ctx context.Context) error {
	body, err := c.get(ctx, c.address(), "the resources of the access API")
	if err != nil {
		return err
	}
	return body.Close()
}

// SSH opens a connection to the machine's SSH port. ctx bounds only the connecting.
func (c *Client) SSH(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, endpointSSH)
}

// Console attaches to the machine's serial console, which several clients may
// share. The stream ends when the machine is powered off. ctx bounds only the
// connecting.
func (c *Client) Console(ctx context.Context, m Ref) (net.Conn, error) {
	return c.stream(ctx, m, endpointConsole)
}

// LogOptions configures [Client.Log].
type LogOptions struct {
	// Follow adds new output until the context ends or the machine is deleted.
	Follow bool
}

// Log returns the output of the machine's serial console so far, and new output if
// o.Follow is set. The caller closes it. ctx bounds the whole response.
func (c *Client) Log(ctx context.Context, m Ref, o LogOptions) (io.ReadCloser, error) {
	address := c.machine(m, endpointLog)
	if o.Follow {
		address.RawQuery = url.Values{"follow": {"true"}}.Encode()
	}
	return c.get(ctx, address, "the log of "+m.String())
}

// Capacity returns what the machines of the manager's host use. ctx bounds the request.
func (c *Client) Capacity(ctx context.Context) (capacity Capacity, err error) {
	body, err := c.get(ctx, c.address(capacityResource, capacityName), "the capacity")
	if err != nil {
		return Capacity{}, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxJSON)).Decode(&capacity); err != nil {
		return Capacity{}, fmt.Errorf("reading the capacity: %w", err)
	}
	return capacity, nil
}

func (c *Client) address(elem ...string) *url.URL {
	for i, e := range elem {
		elem[i] = url.PathEscape(e)
	}
	return c.base.JoinPath(append([]string{"apis", Group, Version}, elem...)...)
}

func (c *Client) machine(m Ref, e endpoint) *url.URL {
	return c.address("namespaces", m.Namespace, string(m.Kind), m.Name, string(e))
}

// get requests what is at an address and returns the body, which the caller closes.
func (c *Client) get(ctx context.Context, address *url.URL, what string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(c.config)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("requesting %s: %w", what, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, responseError(response)
	}
	return response.Body, nil
}

// responseError returns the API's error for a response. A response that is not the API's
// is that of an API server which does not reach the manager, or has no access API.
func responseError(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("reading the response %s: %w", response.Status, err)
	}
	var status metav1.Status
	if json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("%w through the cluster: the API server responded %q", ErrNoManager, response.Status)
}

// stream opens a stream of a machine.
func (c *Client) stream(ctx context.Context, m Ref, e endpoint) (net.Conn, error) {
	what := fmt.Sprintf("opening the %s of %s", e, m)
	transport, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.machine(m, e).String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request, streamProtocol)
	if err != nil {
		var upgrade *httpstream.UpgradeFailureError
		var status *apierrors.StatusError
		switch {
		case errors.As(err, &upgrade) && errors.As(upgrade.Cause, &status):
			return nil, status
		case upgrade != nil:
			// The response is not the API's: ask the API server why.
			err = cmp.Or(c.Available(ctx), err)
		}
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return openedStream(conn), nil
}
