// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

const (
	// authorityLifetime is longer than a process runs.
	authorityLifetime = 20 * 365 * 24 * time.Hour
	leafLifetime      = 30 * 24 * time.Hour
	// renewBefore is the remaining lifetime at which a certificate is replaced.
	renewBefore = leafLifetime / 3
	// backdate tolerates clocks that differ.
	backdate = time.Hour
)

// Certificate is the server's certificate. Its authority exists only in the memory of
// this process, so a new process has another authority. It is safe for concurrent use.
type Certificate struct {
	host      string
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	now       func() time.Time

	mu   sync.Mutex
	leaf *tls.Certificate
}

// NewCertificate returns a certificate for a DNS name.
func NewCertificate(host string) (*Certificate, error) {
	c := &Certificate{host: host, now: time.Now}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("generating the key of the access API's authority: %w", err)
	}
	template, err := certificateTemplate("pxelab access", c.now(), authorityLifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("creating the access API's authority: %w", err)
	}
	c.authority, err = x509.ParseCertificate(raw)
	return c, err
}

func certificateTemplate(name string, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
	}, nil
}

// AuthorityPEM returns the authority's certificate.
func (c *Certificate) AuthorityPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.authority.Raw})
}

// get returns a certificate that is valid for some time.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaf != nil && c.leaf.Leaf.NotAfter.Sub(c.now()) > renewBefore {
		return c.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certificateTemplate(c.host, c.now(), leafLifetime)
	if err != nil {
		return nil, err
	}
	template.DNSNames = []string{c.host}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	raw, err := x509.CreateCertificate(rand.Reader, template, c.authority, key.Public(), c.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	c.leaf = &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
	return c.leaf, nil
}

// TLSServer serves a [Handler] to the cluster's API server. It is the handler's
// [Authenticator]. Until Trust is set, it accepts no connection.
type TLSServer struct {
	listener    net.Listener
	certificate *Certificate
	log         logr.Logger
	trust       atomic.Pointer[RequestTrust]
}

// ListenTLS binds an address, HOST:PORT. The caller must call Serve.
func ListenTLS(address string, certificate *Certificate, log logr.Logger) (*TLSServer, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for the cluster's API server: %w", err)
	}
	return &TLSServer{listener: listener, certificate: certificate, log: discardUnset(log)}, nil
}

// Addr returns the address that the server listens on.
func (s *TLSServer) Addr() net.Addr { return s.listener.Addr() }

// Trust sets which requests are accepted from now on. Streams that are open stay open.
func (s *TLSServer) Trust(t *RequestTrust) { s.trust.Store(t) }

// User implements Authenticator.
func (s *TLSServer) User(r *http.Request) (User, error) {
	trust := s.trust.Load()
	if trust == nil {
		return User{}, errNoTrust
	}
	return trust.User(r)
}

var errNoTrust = errors.New("the API server's certificate authority is not known yet")

func (s *TLSServer) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			trust := s.trust.Load()
			if trust == nil {
				return nil, errNoTrust
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.certificate.get,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trust.ClientCAs,
				// Every connection is verified with the current authorities.
				SessionTicketsDisabled: true,
			}, nil
		},
		// Not used, but net/http requires a certificate.
		GetCertificate: s.certificate.get,
	}
}

// Serve serves requests until ctx ends, then ends all streams and returns nil. It may be
// called once.
func (s *TLSServer) Serve(ctx context.Context, h *Handler) error {
	server := &http.Server{
		Handler: h, TLSConfig: s.config(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: serverLog(s.log),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		server.Close()
	})
	err := server.ServeTLS(s.listener, "", "")
	if stop() {
		server.Close()
	} else {
		<-stopped
	}
	h.Close()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the access API: %w", err)
	}
	return nil
}
