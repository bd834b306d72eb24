// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// dialLimit bounds the connection to netbootd, the TLS handshake and netbootd's own
// attempt, which ends after 30 s. On a busy host, an emulated server that also sends
// images takes more than 20 s for a handshake.
const dialLimit = time.Minute

var errDialLimit = fmt.Errorf("netbootd did not answer within %s; the host may be overloaded", dialLimit)

// DialTarget connects to a declared machine through netbootd, within a minute. ctx
// applies to dialling only. The connection supports CloseWrite.
func (c *Client) DialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	conn, err := c.dialTarget(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s through %s: %w", address, c.address, err)
	}
	return conn, nil
}

func (c *Client) dialTarget(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errDialLimit)
	defer cancel()
	dialer := &tls.Dialer{Config: c.tls}
	conn, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := upgrade(conn.(*tls.Conn), c.url("/v1/proxy", url.Values{"address": {address.String()}}))
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return upgraded, nil
}

// upgrade turns the connection into a raw stream (RFC 9110, section 7.8). It
// leaves conn open on failure.
func upgrade(conn *tls.Conn, url string) (*targetConn, error) {
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", UpgradeName)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	if got := resp.Header.Get("Upgrade"); got != UpgradeName {
		return nil, fmt.Errorf("unexpected upgrade to %q", got)
	}
	return &targetConn{Conn: conn, reader: reader}, nil
}

// targetConn first reads the bytes that arrived together with the response.
type targetConn struct {
	*tls.Conn
	reader *bufio.Reader
}

func (t *targetConn) Read(p []byte) (int, error) { return t.reader.Read(p) }
