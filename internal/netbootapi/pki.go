// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
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
	"time"
)

// Names in the certificates. Every provisioning server has a separate
// certificate authority, so the names need not distinguish servers: the
// certificate of another server does not verify.
const (
	ServerName = "netbootd.pxelab.internal"
	ClientName = "manager.pxelab.internal"
)

// Keys of Credentials.Encode, the same as the file names in the guest.
const (
	FileCA        = "ca.crt"
	FileServerCrt = "server.crt"
	FileServerKey = "server.key"
	FileClientCrt = "client.crt"
	FileClientKey = "client.key"
)

const (
	credentialsValid = 365 * 24 * time.Hour
	// The guest's clock may be behind the host's at early boot.
	credentialsSkew = 48 * time.Hour
	renewBefore     = 90 * 24 * time.Hour
)

// authorityName is the prefix of every authority's name. The rest makes the name
// unique, because a server requests a client certificate by its issuer's name.
const authorityName = "pxelab authority "

// Credentials authenticate manager and netbootd to each other, in PEM. The
// authority's key is discarded once both certificates are signed, so a renewal
// creates new Credentials, which Trust holds beside the old ones until netbootd
// serves with its part of them.
type Credentials struct {
	CA                   []byte
	ServerCrt, ServerKey []byte
	ClientCrt, ClientKey []byte
}

// NewCredentials creates an authority and signs one server and one client
// certificate (ECDSA P-256), valid for a year from now.
func NewCredentials(now time.Time) (*Credentials, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the authority's key: %w", err)
	}
	ca := certificate(authorityName, now)
	ca.Subject.CommonName += ca.SerialNumber.Text(16)
	ca.IsCA = true
	ca.BasicConstraintsValid = true
	ca.MaxPathLenZero = true
	ca.KeyUsage = x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	c := &Credentials{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})}
	if c.ServerCrt, c.ServerKey, err = sign(ca, caKey, ServerName, x509.ExtKeyUsageServerAuth, now); err != nil {
		return nil, err
	}
	if c.ClientCrt, c.ClientKey, err = sign(ca, caKey, ClientName, x509.ExtKeyUsageClientAuth, now); err != nil {
		return nil, err
	}
	return c, nil
}

func certificate(name string, now time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("reading random bytes: " + err.Error())
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"pxelab"}},
		NotBefore:    now.Add(-credentialsSkew),
		NotAfter:     now.Add(credentialsValid),
	}
}

func sign(ca *x509.Certificate, caKey *ecdsa.PrivateKey, name string, usage x509.ExtKeyUsage, now time.Time) (crt, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating the key of %s: %w", name, err)
	}
	template := certificate(name, now)
	template.DNSNames = []string{name}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, private.Public(), caKey)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the certificate of %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key of %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// Encode returns the credentials as a Secret's data.
func (c *Credentials) Encode() map[string][]byte {
	return map[string][]byte{
		FileCA:        c.CA,
		FileServerCrt: c.ServerCrt, FileServerKey: c.ServerKey,
		FileClientCrt: c.ClientCrt, FileClientKey: c.ClientKey,
	}
}

// DecodeCredentials is the reverse of Encode. It fails when a part is missing
// or does not verify against the authority. It does not check expiry.
func DecodeCredentials(data map[string][]byte) (*Credentials, error) {
	c := &Credentials{
		CA:        data[FileCA],
		ServerCrt: data[FileServerCrt], ServerKey: data[FileServerKey],
		ClientCrt: data[FileClientCrt], ClientKey: data[FileClientKey],
	}
	if _, err := c.ClientTLS(); err != nil {
		return nil, err
	}
	if _, err := ServerTLS(c.CA, c.ServerCrt, c.ServerKey); err != nil {
		return nil, err
	}
	return c, nil
}

// RenewAt returns when to renew the credentials: 90 days before they expire.
func (c *Credentials) RenewAt() (time.Time, error) {
	leaf, err := parseCertificate(c.ServerCrt)
	if err != nil {
		return time.Time{}, err
	}
	return leaf.NotAfter.Add(-renewBefore), nil
}

// ClientTLS returns the manager's TLS configuration for these credentials and
// the system's clock; see Trust.ClientTLS.
func (c *Credentials) ClientTLS() (*tls.Config, error) {
	return Trust{Current: c}.ClientTLS(time.Now)
}

// ServerTLS returns netbootd's TLS configuration: TLS 1.3 only, and only for a
// client with a certificate of the same authority and the manager's name.
func ServerTLS(ca, crt, key []byte) (*tls.Config, error) {
	return serverTLS(ServerCredentials{CA: ca, Crt: crt, Key: key}, time.Now)
}

func serverTLS(c ServerCredentials, now func() time.Time) (*tls.Config, error) {
	pair, pool, leaf, err := load("server", c.CA, c.Crt, c.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Small records would let a browser show the beginning of a page sooner. Here
		// each costs a system call.
		DynamicRecordSizingDisabled: true,

		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		NextProtos:   []string{"http/1.1"},
		Time:         notBefore(leaf.NotBefore, now),
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := cs.PeerCertificates[0].VerifyHostname(ClientName); err != nil {
				return fmt.Errorf("the client's certificate is not the manager's: %w", err)
			}
			return nil
		},
	}, nil
}

func load(side string, ca, crt, key []byte) (tls.Certificate, *x509.CertPool, *x509.Certificate, error) {
	fail := func(err error) (tls.Certificate, *x509.CertPool, *x509.Certificate, error) {
		return tls.Certificate{}, nil, nil, fmt.Errorf("%s credentials: %w", side, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fail(errors.New("the authority's certificate is missing or not a PEM certificate"))
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return fail(err)
	}
	leaf, err := parseCertificate(crt)
	if err != nil {
		return fail(err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: pool, CurrentTime: leaf.NotBefore.Add(time.Minute),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fail(err)
	}
	return pair, pool, leaf, nil
}

func parseCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
