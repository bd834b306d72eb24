// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// silenceLimit is how long a watched server may say nothing: two heartbeats
	// and some slack for a guest that is busy.
	silenceLimit = 25 * time.Second
	// handshakeLimit is how long a server may take to say who it is.
	handshakeLimit = 20 * time.Second
)

// ErrSilent ends a Watch whose server is there and says nothing: it took the
// connection and hangs, or its machine does.
var ErrSilent = errors.New("netbootd fell silent")

// ClientOptions are all a Client needs.
type ClientOptions struct {
	// Address of the agent API as HOST:PORT.
	Address string
	// TLS as Credentials.ClientTLS makes it.
	TLS *tls.Config
	// Patience is how long the server may say nothing, two heartbeats at least;
	// default 25 s.
	Patience time.Duration
}

// Client talks to one netbootd. It is safe for concurrent use and connects
// when it needs to; a client whose server is away fails with the dialling
// error and works again when the server is back.
type Client struct {
	address   string
	patience  time.Duration
	tls       *tls.Config
	transport *http.Transport
	http      *http.Client
}

// New makes a client. It does not connect.
func New(o ClientOptions) (*Client, error) {
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, fmt.Errorf("agent address: %w", err)
	}
	if o.TLS == nil {
		return nil, errors.New("agent client: TLS configuration missing")
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
		tls:       config,
		transport: transport,
		http:      &http.Client{Transport: transport},
	}, nil
}

// Close drops idle connections. Calls under way are ended by their contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c *Client) url(path string, query url.Values) string {
	u := url.URL{Scheme: "https", Host: c.address, Path: path, RawQuery: query.Encode()}
	return u.String()
}

// PushConfig puts config in force and returns its digest as netbootd computed
// it. An error that wraps ErrInvalid will come again for the same document.
func (c *Client) PushConfig(ctx context.Context, config *Config) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	raw, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("encoding the configuration: %w", err)
	}
	var reply digestReply
	err = c.call(ctx, http.MethodPut, "/v1/config", nil, bytes.NewReader(raw), &reply)
	if err != nil {
		return "", fmt.Errorf("pushing the configuration to %s: %w", c.address, err)
	}
	return reply.Digest, nil
}

// PushCredentials has netbootd serve later connections with c. That it does is
// seen by its State.
func (c *Client) PushCredentials(ctx context.Context, credentials ServerCredentials) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	raw, err := json.Marshal(credentials)
	if err != nil {
		return fmt.Errorf("encoding credentials: %w", err)
	}
	var reply digestReply
	if err := c.call(ctx, http.MethodPut, "/v1/credentials", nil, bytes.NewReader(raw), &reply); err != nil {
		return fmt.Errorf("renewing the credentials of %s: %w", c.address, err)
	}
	return nil
}

// State asks for the state once.
func (c *Client) State(ctx context.Context) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var state State
	if err := c.call(ctx, http.MethodGet, "/v1/state", nil, nil, &state); err != nil {
		return State{}, fmt.Errorf("asking %s for its state: %w", c.address, err)
	}
	return state, nil
}

// Watch calls changed with the whole State at once, at every change and at
// every heartbeat, one call at a time, until ctx ends or the connection fails:
// it never returns nil. A server that is there and silent for as long as the
// client's patience counts as hung (ErrSilent). To connect again is the
// caller's: it knows what to say of a server that is away.
func (c *Client) Watch(ctx context.Context, changed func(State)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.patience, func() { cancel(ErrSilent) })
	defer silence.Stop()
	err := c.watch(ctx, func(s State) {
		silence.Stop()
		changed(s)
		silence.Reset(c.patience)
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, ErrSilent) {
		err = fmt.Errorf("%w: %w", ErrSilent, err) // it takes connections and does not greet
	}
	return fmt.Errorf("watching %s: %w", c.address, err)
}

func (c *Client) watch(ctx context.Context, changed func(State)) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/watch", nil, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	stream := bufio.NewReaderSize(resp.Body, 16<<10)
	for {
		line, err := readLine(stream, MaxStateBytes)
		if err != nil {
			return err
		}
		var state State
		if err := json.Unmarshal(line, &state); err != nil {
			return fmt.Errorf("decoding its state: %w", err)
		}
		changed(state)
	}
}

// readLine reads up to the end of a line, of limit bytes at most. Unlike a
// json.Decoder it gives back what a long line took, and an endless one does not
// fill the memory. A line that breaks off is io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("its answer is longer than %d bytes", limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// UploadBlob makes sure that netbootd has the blob, sending what it lacks from
// content and calling progress (which may be nil) with the bytes that are
// there. It returns nil when netbootd has verified the whole. The pushed
// configuration must name the blob. A failed upload is resumed by the next
// call. ErrDigest means that content is not what blob says. Calls of progress do
// not overlap; neither it nor content is used after the return.
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
	resp, err := c.send(ctx, http.MethodHead, path, nil, nil, 0)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	offset, err := strconv.ParseInt(resp.Header.Get(headerOffset), 10, 64)
	if err != nil || offset < 0 || offset > blob.Size {
		return fmt.Errorf("unexpected offset %q of %d", resp.Header.Get(headerOffset), blob.Size)
	}
	progress(offset)
	if resp.Header.Get(headerComplete) == "true" {
		return nil
	}
	// Bytes still in flight to a dead peer show as reads that stop; the
	// answer at the end may take the time of one pass over the content.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(2*idleLimit, func() { cancel(ErrSilent) })
	defer watchdog.Stop()
	body := &progressReader{
		r: io.NewSectionReader(content, offset, blob.Size-offset),
		moved: func(n int64) {
			watchdog.Reset(2 * idleLimit)
			progress(offset + n)
		},
	}
	// An answer that comes before all is sent does not end the sending at once.
	defer body.Close()
	query := url.Values{"offset": {strconv.FormatInt(offset, 10)}}
	resp, err = c.send(ctx, http.MethodPut, path, query, body, blob.Size-offset)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// progressReader tells moved how many bytes were read so far. Once it is closed,
// it uses neither r nor moved any more; Close waits for a Read that does.
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

// DialTarget connects to a declared machine through netbootd. ctx bounds the
// dialling only. The connection supports CloseWrite.
func (c *Client) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	conn, err := c.dialTarget(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s through %s: %w", address, c.address, err)
	}
	return conn, nil
}

func (c *Client) dialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	dialer := &tls.Dialer{Config: c.tls}
	conn, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := upgrade(conn.(*tls.Conn), c.url("/v1/proxy", url.Values{"address": {address.String()}}))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return upgraded, nil
}

// call sends body and decodes the answer's JSON into out.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) error {
	size := int64(-1)
	if sized, ok := body.(*bytes.Reader); ok {
		size = sized.Size()
	}
	resp, err := c.send(ctx, method, path, query, body, size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, MaxStateBytes)).Decode(out)
}

// send returns an answer with a 2xx status; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url(path, query), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = size
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

// readError turns a refusal into an error that errors.Is recognises.
func readError(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var wire wireError
	if json.Unmarshal(raw, &wire) != nil || wire.Message == "" {
		wire.Message = http.StatusText(resp.StatusCode)
		if resp.StatusCode == http.StatusNotFound && resp.Request != nil && resp.Request.Method == http.MethodHead {
			wire.Kind, wire.Message = "UnknownBlob", ErrUnknownBlob.Error()
		}
	}
	return &RefusedError{Status: resp.StatusCode, Kind: wire.Kind, Message: wire.Message}
}

// RefusedError is netbootd's answer to a request that it did not carry out. It
// wraps the error of this package that names its kind, where there is one.
type RefusedError struct {
	Status  int
	Kind    string
	Message string
}

func (e *RefusedError) Error() string { return e.Message }

func (e *RefusedError) Unwrap() error { return errorKinds[e.Kind].err }
