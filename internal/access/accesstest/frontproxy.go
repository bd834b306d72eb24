// SPDX-License-Identifier: Apache-2.0

// Package accesstest provides what an API server with an aggregation layer has, for tests.
package accesstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ProxyName is the common name of the API server's client certificate.
const ProxyName = "front-proxy-client"

// FrontProxy is the authority of an API server's client certificate.
type FrontProxy struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewFrontProxy returns an authority that is valid for an hour.
func NewFrontProxy(t testing.TB) *FrontProxy {
	t.Helper()
	p := &FrontProxy{key: newKey(t)}
	p.certificate = p.sign(t, "front-proxy-ca", p.key)
	return p
}

// AuthorityPEM returns the certificate of the authority.
func (p *FrontProxy) AuthorityPEM() []byte { return encode("CERTIFICATE", p.certificate.Raw) }

// Certificate returns a client certificate with a common name.
func (p *FrontProxy) Certificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	return tls.Certificate{Certificate: [][]byte{p.sign(t, name, key).Raw}, PrivateKey: key}
}

// Flags writes the files of an API server and returns its flags, without the dashes.
func (p *FrontProxy) Flags(t testing.TB) map[string]string {
	t.Helper()
	dir := t.TempDir()
	client := p.Certificate(t, ProxyName)
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return map[string]string{
		"requestheader-client-ca-file":       write("ca.crt", p.AuthorityPEM()),
		"requestheader-allowed-names":        ProxyName,
		"requestheader-username-headers":     "X-Remote-User",
		"requestheader-uid-headers":          "X-Remote-Uid",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"proxy-client-cert-file":             write("client.crt", encode("CERTIFICATE", client.Certificate[0])),
		"proxy-client-key-file":              write("client.key", encode("PRIVATE KEY", key)),
	}
}

func encode(kind string, raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign returns a client certificate, or the authority itself while there is none.
func (p *FrontProxy) sign(t testing.TB, name string, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent := p.certificate
	if parent == nil {
		template.IsCA = true
		template.BasicConstraintsValid = true
		template.KeyUsage = x509.KeyUsageCertSign
		parent = template
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
