// SPDX-License-Identifier: Apache-2.0

// Package pki keeps the keys and certificates of one embedded control plane in
// a directory: an own CA, the API server's serving certificate, the admin's
// client certificate and the key that signs service-account tokens.
//
// It trusts nothing it finds: a pair that does not parse, does not match, is
// not signed by the present CA, ends soon or was readable by others is made
// anew. It knows no Kubernetes and refuses to hand out anything but this fixed
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
	// RenewBefore is the time before its end at which a certificate is renewed.
	RenewBefore = 30 * 24 * time.Hour

	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 2 * 365 * 24 * time.Hour
	// Clocks of machines without a battery jump at boot.
	backdate = time.Hour
)

// Bundle is where the files of a control plane are, and what a client needs.
type Bundle struct {
	CACert            string // path, PEM
	ServingCert       string // path, PEM
	ServingKey        string // path, PEM
	ServiceAccountKey string // path, PEM, private
	AdminCert         string // path, PEM
	AdminKey          string // path, PEM
	// Renewed says what was made in this call and why, for the log.
	Renewed []string
}

// Ensure makes dir (0700) hold a complete and valid set and returns it. It is
// idempotent: what is good stays untouched, byte for byte. A new CA replaces
// everything signed by the old one. Callers serialize (serve holds a lock on
// the data directory).
func Ensure(dir string, now time.Time) (Bundle, error) {
	b := Bundle{
		CACert:            filepath.Join(dir, "ca.crt"),
		ServingCert:       filepath.Join(dir, "apiserver.crt"),
		ServingKey:        filepath.Join(dir, "apiserver.key"),
		ServiceAccountKey: filepath.Join(dir, "service-account.key"),
		AdminCert:         filepath.Join(dir, "admin.crt"),
		AdminKey:          filepath.Join(dir, "admin.key"),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Bundle{}, fmt.Errorf("making the key directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return Bundle{}, fmt.Errorf("closing the key directory to others: %w", err)
	}

	ca, err := b.ensurePair(nil, pairFiles{b.CACert, filepath.Join(dir, "ca.key")}, caTemplate(now), now)
	if err != nil {
		return Bundle{}, err
	}
	if _, err := b.ensurePair(ca, pairFiles{b.ServingCert, b.ServingKey}, servingTemplate(now), now); err != nil {
		return Bundle{}, err
	}
	if _, err := b.ensurePair(ca, pairFiles{b.AdminCert, b.AdminKey}, adminTemplate(now), now); err != nil {
		return Bundle{}, err
	}
	if err := b.ensureSigningKey(); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

func caTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: "pxelab control plane"},
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

func adminTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "pxelab-admin", Organization: []string{"system:masters"}},
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

// ensurePair loads a certificate and its key, or makes them by template, signed
// by issuer (by itself without one).
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
		return nil, fmt.Errorf("making %s: %w", files.cert, err)
	}
	// A crash between the two leaves a key without its certificate, which the
	// next start notices and replaces.
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
		return fmt.Errorf("making %s: %w", b.ServiceAccountKey, err)
	}
	return writeKey(b.ServiceAccountKey, key)
}

func reason(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("was not there")
	}
	return err
}

// check tells why a pair cannot stay.
func (p *pair) check(issuer *pair, template *x509.Certificate, now time.Time) error {
	if left := p.cert.NotAfter.Sub(now); left < RenewBefore {
		return fmt.Errorf("ends %s", p.cert.NotAfter.Format(time.RFC3339))
	}
	if now.Before(p.cert.NotBefore) {
		return fmt.Errorf("begins only %s", p.cert.NotBefore.Format(time.RFC3339))
	}
	if p.cert.Subject.String() != template.Subject.String() || p.cert.IsCA != template.IsCA {
		return errors.New("is for another purpose")
	}
	signer := p.cert
	if issuer != nil {
		signer = issuer.cert
	}
	if err := p.cert.CheckSignatureFrom(signer); err != nil {
		return fmt.Errorf("is not signed by the present CA (%w)", err)
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
