// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpproxy"

	"github.com/pxelab/pxelab/internal/addresspolicy"
)

// Network restricts where downloads connect to. Users who are trusted with a cluster's
// namespace choose the URLs; they are not trusted with what the manager's host can reach.
type Network struct {
	// AllowPrivate permits private addresses.
	AllowPrivate bool
	// Allow permits more: see addresspolicy.Policy.
	Allow []netip.Prefix
	// CAFile is a PEM file of certificate authorities that are trusted in addition to
	// the system's; empty is none. It is read by Open.
	CAFile string
	// Proxy returns the proxy for a URL, nil for a direct connection. The default reads
	// HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
	Proxy func(*url.URL) (*url.URL, error)
	// own returns the addresses of this host; tests replace it.
	own func() ([]netip.Addr, error)
}

// refusedError is returned for a connection that the policy does not permit.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// transport sends requests directly, after it checked the very address that it connects to,
// or through a proxy. It follows no redirects: http.Client calls it for each one.
type transport struct {
	network Network
	// direct checks addresses; proxied connects to the proxy, which the host's
	// administrator has chosen.
	direct, proxied *http.Transport
}

func newTransport(n Network) (*transport, error) {
	if n.Proxy == nil {
		n.Proxy = httpproxy.FromEnvironment().ProxyFunc()
	}
	if n.own == nil {
		n.own = ownAddresses
	}
	roots, err := authorities(n.CAFile)
	if err != nil {
		return nil, err
	}
	t := &transport{network: n}
	t.direct = newHTTPTransport(&net.Dialer{Timeout: connectTimeout, ControlContext: t.control}, roots)
	t.proxied = newHTTPTransport(&net.Dialer{Timeout: connectTimeout}, roots)
	t.proxied.OnProxyConnectResponse = checkProxyResponse
	t.proxied.Proxy = func(r *http.Request) (*url.URL, error) { return n.Proxy(r.URL) }
	return t, nil
}

func newHTTPTransport(d *net.Dialer, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:           d.DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       connectTimeout,
		// A header is not content; one of a megabyte is an attack.
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// authorities returns the system's certificate authorities and those of a file; nil, which
// means those of the system, without a file.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading certificate authorities: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's certificate authorities: %w", err)
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s contains no certificate in PEM format", file)
	}
	return roots, nil
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := t.network.Proxy(r.URL)
	if err != nil {
		return nil, fmt.Errorf("determining the proxy: %w", err)
	}
	if proxy == nil {
		return t.direct.RoundTrip(r)
	}
	if err := t.checkProxied(r.URL.Hostname()); err != nil {
		return nil, err
	}
	return t.proxied.RoundTrip(r)
}

// CloseIdleConnections closes the connections that no transfer uses.
func (t *transport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

// control is called with each address, after resolution, immediately before the connection
// to it is opened.
func (t *transport) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusedError{fmt.Errorf("parsing the address to connect to: %w", err)}
	}
	return t.check(to.Addr())
}

func (t *transport) check(a netip.Addr) error {
	own, err := t.network.own()
	if err != nil {
		return &refusedError{fmt.Errorf("listing this host's addresses: %w", err)}
	}
	policy := addresspolicy.Policy{AllowPrivate: t.network.AllowPrivate, Allow: t.network.Allow, Own: own}
	if err := policy.Check(a); err != nil {
		return &refusedError{err}
	}
	return nil
}

// checkProxied checks a host that a proxy resolves: only addresses can be checked here, also
// in the abbreviated forms that some resolvers accept, such as 127.1 and 0x7f000001.
func (t *transport) checkProxied(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return t.check(a)
	}
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	last := labels[len(labels)-1]
	switch {
	case last == "localhost":
		return t.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	case isNumber(last):
		return &refusedError{fmt.Errorf("host %s is an abbreviated address", host)}
	default:
		return nil
	}
}

// isNumber reports whether a resolver could take the last part of a host name for the end
// of an IPv4 address (WHATWG URL, "ends in a number").
func isNumber(label string) bool {
	digits, hex := strings.CutPrefix(label, "0x")
	if hex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

// ownAddresses returns the addresses of all interfaces. They can change at any time.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr())
		}
	}
	return own, nil
}

// checkRedirect is http.Client.CheckRedirect. The client's own rules send the credentials of
// a URL to no other host.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	last := via[len(via)-1].URL
	switch {
	case last.Scheme == "https" && req.URL.Scheme != "https":
		return errDowngrade
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return errScheme
	case req.URL.User != nil && (req.URL.Host != last.Host || req.URL.Scheme != last.Scheme):
		return errCredentials
	}
	// The query of a URL may be a signature that only its own server must know.
	req.Header.Del("Referer")
	return nil
}

var (
	errRedirects   = fmt.Errorf("it redirects more than %d times", maxRedirects)
	errDowngrade   = errors.New("it redirects from https to http; use a url that stays on https")
	errScheme      = errors.New("it redirects to a url that is neither http nor https")
	errCredentials = errors.New("it redirects to a url with credentials")
)
