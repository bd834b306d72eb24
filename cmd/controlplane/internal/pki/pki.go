// SPDX-License-Identifier: Apache-2.0

// Package pki maintains the keys and certificates of an embedded control plane
// in a directory: a CA, the API server's serving certificate, the admin's client
// certificate, the key that signs service-account tokens, and a second CA with the client
// certificate by which aggregated APIs recognise the API server.
//
// It verifies what it finds: a pair that does not parse, does not match, is not
// signed by the current CA, expires soon or was readable by other users is
// generated again. It is independent of Kubernetes and issues only this fixed
// set.
package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// RenewBefore is how long before its expiry a certificate is renewed.
	RenewBefore = 30 * 24 * time.Hour
	// FrontProxyName is the common name of the certificate for aggregated APIs.
	FrontProxyName = "front-proxy-client"

	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 2 * 365 * 24 * time.Hour
	// backdate allows for clocks of machines without a battery, which jump at
	// boot.
	backdate = time.Hour
)

// Bundle contains the paths of a control plane's key and certificate files.
type Bundle struct {
	CACert            string // path, PEM
	ServingCert       string // path, PEM
	ServingKey        string // path, PEM
	ServiceAccountKey string // path, PEM, private
	AdminCert         string // path, PEM
	AdminKey          string // path, PEM
	FrontProxyCACert  string // path, PEM
	FrontProxyCert    string // path, PEM
	FrontProxyKey     string // path, PEM
	// Renewed lists what this call generated and why, for the log.
	Renewed []string
}

// Ensure makes dir (mode 0700) contain a complete and valid set and returns it.
// It is idempotent: valid files are not changed. A new CA replaces everything
// signed by the old one. Callers must serialize calls (serve holds a lock on the
// data directory).
func Ensure(dir string, now time.Time) (Bundle, error) {
	b := Bundle{
		CACert:            filepath.Join(dir, "ca.crt"),
		ServingCert:       filepath.Join(dir, "apiserver.crt"),
		ServingKey:        filepath.Join(dir, "apiserver.key"),
		ServiceAccountKey: filepath.Join(dir, "service-account.key"),
		AdminCert:         filepath.Join(dir, "admin.crt"),
		AdminKey:          filepath.Join(dir, "admin.key"),
		FrontProxyCACert:  filepath.Join(dir, "front-proxy-ca.crt"),
		FrontProxyCert:    filepath.Join(dir, "front-proxy-client.crt"),
		FrontProxyKey:     filepath.Join(dir, "front-proxy-client.key"),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Bundle{}, fmt.Errorf("creating the key directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return Bundle{}, fmt.Errorf("restricting the key directory to its owner: %w", err)
	}

	ca, err := b.ensurePair(nil, pairFiles{b.CACert, filepath.Join(dir, "ca.key")}, caTemplate("pxelab control plane", now), now)
	if err != nil {
		return Bundle{}, err
	}
	if _, err := b.ensurePair(ca, pairFiles{b.ServingCert, b.ServingKey}, servingTemplate(now), now); err != nil {
		return Bundle{}, err
	}
	admin := clientTemplate("pxelab-admin", []string{"system:masters"}, now)
	if _, err := b.ensurePair(ca, pairFiles{b.AdminCert, b.AdminKey}, admin, now); err != nil {
		return Bundle{}, err
	}
	// Who has a certificate of the first CA must not pass for the API server.
	proxyCA := pairFiles{b.FrontProxyCACert, filepath.Join(dir, "front-proxy-ca.key")}
	if ca, err = b.ensurePair(nil, proxyCA, caTemplate("pxelab front proxy", now), now); err != nil {
		return Bundle{}, err
	}
	if _, err := b.ensurePair(ca, pairFiles{b.FrontProxyCert, b.FrontProxyKey}, clientTemplate(FrontProxyName, nil, now), now); err != nil {
		return Bundle{}, err
	}
	if err := b.ensureSigningKey(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func caTemplate(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
}

func servingTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(leafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1).To4()},
	}
}

func clientTemplate(name string, groups []string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(leafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

type pairFiles struct{ cert, key string }

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ensurePair loads a certificate and its key. If they are missing or invalid, it
// generates them from template, signed by issuer, or self-signed when issuer is
// nil.
func (b *Bundle) ensurePair(issuer *pair, files pairFiles, template *x509.Certificate, now time.Time) (*pair, error) {
	p, err := loadPair(files)
	if err == nil {
		err = p.check(issuer, template, now)
	}
	if err == nil {
		return p, nil
	}
	b.Renewed = append(b.Renewed, fmt.Sprintf("%s: %v", filepath.Base(files.cert), reason(err)))
	p, err = newPair(issuer, template)
	if err != nil {
		return nil, fmt.Errorf("generating %s: %w", files.cert, err)
	}
	// A crash between the two writes leaves a key that does not match its
	// certificate; the next start detects and replaces the pair.
	if err := writeKey(files.key, p.key); err != nil {
		return nil, err
	}
	if err := writeCert(files.cert, p.cert); err != nil {
		return nil, err
	}
	return p, nil
}

func (b *Bundle) ensureSigningKey() error {
	_, err := loadKey(b.ServiceAccountKey)
	if err == nil {
		return nil
	}
	b.Renewed = append(b.Renewed, fmt.Sprintf("%s: %v", filepath.Base(b.ServiceAccountKey), reason(err)))
	key, err := newKey()
	if err != nil {
		return fmt.Errorf("generating %s: %w", b.ServiceAccountKey, err)
	}
	return writeKey(b.ServiceAccountKey, key)
}

func reason(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("did not exist")
	}
	return err
}

// check returns why a pair must be replaced, or nil.
func (p *pair) check(issuer *pair, template *x509.Certificate, now time.Time) error {
	if left := p.cert.NotAfter.Sub(now); left < RenewBefore {
		return fmt.Errorf("expires %s", p.cert.NotAfter.Format(time.RFC3339))
	}
	if now.Before(p.cert.NotBefore) {
		return fmt.Errorf("is not valid before %s", p.cert.NotBefore.Format(time.RFC3339))
	}
	if p.cert.Subject.String() != template.Subject.String() || p.cert.IsCA != template.IsCA {
		return errors.New("has another purpose")
	}
	signer := p.cert
	if issuer != nil {
		signer = issuer.cert
	}
	if err := p.cert.CheckSignatureFrom(signer); err != nil {
		return fmt.Errorf("is not signed by the current CA: %w", err)
	}
	for _, ip := range template.IPAddresses {
		if err := p.cert.VerifyHostname(ip.String()); err != nil {
			return err
		}
	}
	for _, name := range template.DNSNames {
		if err := p.cert.VerifyHostname(name); err != nil {
			return err
		}
	}
	return nil
}
