// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// httpBuffer is the size of a connection's read buffer, in bytes.
const httpBuffer = 4 << 10

// httpRequest is a request as a program writes it: head is everything from the request
// line to the last header, without the empty line.
type httpRequest struct {
	method string
	url    *url.URL
	head   string
	body   []byte
	// stall is how long the server may send nothing.
	stall time.Duration
}

// httpClient sends requests over one connection after the other, or over the same one
// if keep is set.
type httpClient struct {
	dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	keep bool

	conn *httpConn
}

// httpConn is a connection; idle between requests.
type httpConn struct {
	net.Conn
	peer  netip.AddrPort
	read  *bufio.Reader
	stall time.Duration
}

func (c *httpConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// peerOf returns the server's address: simulated machines resolve no names.
func peerOf(u *url.URL) (netip.AddrPort, error) {
	if u.Scheme != "http" {
		return netip.AddrPort{}, fmt.Errorf("%w: %s", errScheme, u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	a, err := netip.ParseAddrPort(net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %s", errNoName, u.Host)
	}
	return a, nil
}

// errScheme reports a protocol other than HTTP.
var errScheme = errors.New("a simulated machine does not support this protocol")

// do sends a request and returns the response, whose body the caller must close.
func (c *httpClient) do(ctx context.Context, r httpRequest) (*http.Response, error) {
	peer, err := peerOf(r.url)
	if err != nil {
		return nil, err
	}
	reused := c.conn != nil && c.conn.peer == peer
	if !reused {
		c.close()
	}
	resp, err := c.try(ctx, peer, r)
	if err != nil && reused && ctx.Err() == nil {
		// The server closed the idle connection.
		resp, err = c.try(ctx, peer, r)
	}
	return resp, err
}

func (c *httpClient) try(ctx context.Context, peer netip.AddrPort, r httpRequest) (*http.Response, error) {
	if c.conn == nil {
		conn, err := c.dial(ctx, peer)
		if err != nil {
			return nil, err
		}
		c.conn = &httpConn{Conn: conn, peer: peer, stall: r.stall}
		c.conn.read = bufio.NewReaderSize(c.conn, httpBuffer)
	}
	conn := c.conn
	conn.stall = r.stall
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	fail := func(err error) (*http.Response, error) {
		stop()
		c.close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(r.head)
	b.WriteString("\r\n\r\n")
	b.Write(r.body)
	if _, err := conn.Write(b.Bytes()); err != nil {
		return fail(err)
	}
	resp, err := http.ReadResponse(conn.read, &http.Request{Method: r.method})
	if err != nil {
		return fail(err)
	}
	resp.Body = &httpBody{ReadCloser: resp.Body, client: c, stop: stop, close: resp.Close}
	return resp, nil
}

func (c *httpClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// httpBody ends the connection when it is closed, unless it was read to its end.
type httpBody struct {
	io.ReadCloser
	client *httpClient
	stop   func() bool
	close  bool
	ended  bool
	closed bool
}

func (b *httpBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended = true
	}
	return n, err
}

func (b *httpBody) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	b.stop()
	if !b.ended || b.close || !b.client.keep {
		b.client.close()
	}
	return nil
}
