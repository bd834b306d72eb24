// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// proxyError is the response of a proxy that refuses a connection.
type proxyError struct{ code int }

func (e *proxyError) Error() string { return "the proxy returned " + status(e.code) }

// checkProxyResponse is http.Transport.OnProxyConnectResponse.
func checkProxyResponse(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyError{resp.StatusCode}
}

// status returns the name of an HTTP status code. The one in a response is the server's.
func status(code int) string {
	return fmt.Sprintf("%d %s", code, http.StatusText(code))
}

// describe returns the description of a failed transfer for a status. Unlike err itself it
// contains nothing that the server has sent: the server may be one that only the manager
// can reach, and the reader one who must not see its answers.
func describe(err error) string {
	var (
		dns     *net.DNSError
		op      *net.OpError
		proxy   *proxyError
		errno   syscall.Errno
		timeout net.Error
	)
	prefix := ""
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		prefix = "connecting to the proxy: "
	}
	switch {
	case errors.Is(err, errStalled):
		return errStalled.Error()
	case errors.Is(err, errRedirects):
		return errRedirects.Error()
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.As(err, &dns):
		return prefix + "resolving the host name: " + dns.Err
	case errors.As(err, &errno):
		return prefix + errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return prefix + "no response in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return prefix + "the server closed the connection"
	}
	return prefix + describeTLS(err)
}

func describeTLS(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &authority):
		return "its certificate is signed by an unknown authority, which the manager's flag --artifact-ca-file can add"
	case errors.As(err, &host):
		return "its certificate is for another host name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet"
	case errors.As(err, &verify), errors.As(err, &invalid):
		return "its certificate is not valid"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the server does not use TLS"
	case errors.As(err, &alert):
		return alert.Error()
	default:
		return "the server sent an invalid response"
	}
}
