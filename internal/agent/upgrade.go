// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
)

// upgrade asks for the connection to become a raw stream (RFC 9110, section
// 7.8). It leaves conn open on failure.
func upgrade(conn *tls.Conn, url string) (*targetConn, error) {
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeName)
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
	if got := resp.Header.Get("Upgrade"); got != upgradeName {
		return nil, fmt.Errorf("unexpected upgrade to %q", got)
	}
	return &targetConn{Conn: conn, reader: reader}, nil
}

// targetConn reads what arrived together with the answer first.
type targetConn struct {
	*tls.Conn
	reader *bufio.Reader
}

func (t *targetConn) Read(p []byte) (int, error) { return t.reader.Read(p) }
