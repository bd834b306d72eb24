// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// silenceLimit is how long a watched server may send nothing: two heartbeats
	// and some slack for a busy guest.
	silenceLimit = 25 * time.Second
	// handshakeLimit is how long a server may take to present its certificate.
	handshakeLimit = 20 * time.Second
)

// ErrSilent ends a Watch or an upload whose server is connected but sends
// nothing: netbootd or its machine hangs.
var ErrSilent = errors.New("netbootd stopped responding")

// ClientOptions configure a Client.
type ClientOptions struct {
	// Address of the netboot API as HOST:PORT.
	Address string
	// TLS is the result of Trust.ClientTLS.
	TLS *tls.Config
	// Epoch is that of the manager (HeaderEpoch); 0 sends none.
	Epoch int64
	// Patience is how long the server may send nothing. It should be at least
	// two heartbeats; the default is 25 s.
	Patience time.Duration
}

// Client calls the API of one netbootd. It is safe for concurrent use and
// connects on demand: calls to an unreachable server fail with the dialling
// error, and succeed again once the server is reachable.
type Client struct {
	address   string
	patience  time.Duration
	epoch     int64
	tls       *tls.Config
	transport *http.Transport
	http      *http.Client
}

// New makes a client. It does not connect.
func New(o ClientOptions) (*Client, error) {
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, fmt.Errorf("netboot API address: %w", err)
	}
	if o.TLS == nil {
		return nil, errors.New("netboot API client: TLS configuration missing")
	}
	if o.Patience <= 0 {
		o.Patience = silenceLimit
	}
	config := o.TLS.Clone()
	config.NextProtos = []string{"http/1.1"}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: min(handshakeLimit, o.Patience),
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
		WriteBufferSize:     64 << 10,
	}
	return &Client{
		address:   o.Address,
		patience:  o.Patience,
		epoch:     o.Epoch,
		tls:       config,
		transport: transport,
		http:      &http.Client{Transport: transport},
	}, nil
}

// Close closes idle connections. It does not interrupt calls in progress; their
// contexts do.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c *Client) url(path string, query url.Values) string {
	u := url.URL{Scheme: "https", Host: c.address, Path: path, RawQuery: query.Encode()}
	return u.String()
}

// PutServer puts an encoded ServerConfig in force; State.Server shows its Digest then.
// An error that wraps ErrInvalid is permanent for this config, a *MissingError has the
// programs to upload first.
func (c *Client) PutServer(ctx context.Context, config []byte) error {
	if err := c.put(ctx, "/v1/server", config); err != nil {
		return fmt.Errorf("sending the configuration to %s: %w", c.address, err)
	}
	return nil
}

// PutMachine puts a machine's entry in force; its MachineState shows the entry's digests
// then, unless Installing keeps another content. An error that wraps ErrInvalid is
// permanent for this entry; a *MissingError has the content to upload first.
func (c *Client) PutMachine(ctx context.Context, uid string, entry Entry) error {
	if err := c.put(ctx, "/v1/machines/"+url.PathEscape(uid), entry.Encode()); err != nil {
		return fmt.Errorf("sending a machine to %s: %w", c.address, err)
	}
	return nil
}

// DeleteMachine removes a machine and its lease. It succeeds if there is none.
func (c *Client) DeleteMachine(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodDelete, path: "/v1/machines/" + url.PathEscape(uid)})
	if err != nil {
		return fmt.Errorf("removing a machine from %s: %w", c.address, err)
	}
	return resp.Body.Close()
}

// PutCredentials makes netbootd serve later connections with credentials.
// State.Credentials shows when it does.
func (c *Client) PutCredentials(ctx context.Context, credentials ServerCredentials) error {
	raw, err := json.Marshal(credentials)
	if err != nil {
		return fmt.Errorf("encoding credentials: %w", err)
	}
	if err := c.put(ctx, "/v1/credentials", raw); err != nil {
		return fmt.Errorf("renewing the credentials of %s: %w", c.address, err)
	}
	return nil
}

// Observe fetches the whole state once.
func (c *Client) Observe(ctx context.Context) (Observed, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var o Observed
	err := c.Watch(ctx, Position{}, func(u Update) error {
		if err := o.Apply(u); err != nil {
			return err
		}
		return errObserved
	})
	if !errors.Is(err, errObserved) {
		return Observed{}, err
	}
	return o, nil
}

// errObserved ends a Watch after its first Update.
var errObserved = errors.New("observed")

const (
	// maxReply bounds the body of a response, except that of a stream.
	maxReply = 64 << 10
	// callLimit bounds a request that is not a stream or an upload.
	callLimit = time.Minute
)

// put sends body, a JSON value.
func (c *Client) put(ctx context.Context, path string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	resp, err := c.send(ctx, request{method: http.MethodPut, path: path, body: bytes.NewReader(body), size: int64(len(body))})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// request is one request of a Client.
type request struct {
	method, path string
	query        url.Values
	body         io.Reader // nil for none
	size         int64     // of body, in bytes
}

// send returns a response with a 2xx status; the caller closes its body.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.url(r.path, r.query), r.body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = r.size
	}
	if c.epoch != 0 {
		req.Header.Set(HeaderEpoch, strconv.FormatInt(c.epoch, 10))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// readError converts an error response into a RefusedError or a MissingError.
func readError(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	var wire ErrorReply
	if json.Unmarshal(raw, &wire) != nil || wire.Message == "" {
		wire.Message = http.StatusText(resp.StatusCode)
	}
	if resp.StatusCode == http.StatusNotFound && wire.Kind == "" {
		return fmt.Errorf("%w: it does not know the request", ErrVersion)
	}
	if errors.Is(ErrorKinds[wire.Kind].Err, ErrMissing) {
		return &MissingError{wire.Missing}
	}
	return &RefusedError{Status: resp.StatusCode, Kind: wire.Kind, Message: wire.Message}
}

// RefusedError is the error with which netbootd answered a request. It wraps the
// error that ErrorKinds has for Kind, if any.
type RefusedError struct {
	Status  int
	Kind    string
	Message string
}

func (e *RefusedError) Error() string { return e.Message }

func (e *RefusedError) Unwrap() error { return ErrorKinds[e.Kind].Err }
