// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// ServerCredentials are netbootd's part of Credentials, in PEM.
type ServerCredentials struct {
	CA  []byte `json:"ca"`
	Crt []byte `json:"crt"`
	Key []byte `json:"key"`
}

// Server is netbootd's part.
func (c *Credentials) Server() ServerCredentials {
	return ServerCredentials{CA: c.CA, Crt: c.ServerCrt, Key: c.ServerKey}
}

// Digest names the credentials ("sha256:<hex>") without telling a secret.
func (s ServerCredentials) Digest() string {
	sum := sha256.New()
	sum.Write(s.CA)
	sum.Write(s.Crt)
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// Check fails when a part is missing or does not fit the others. The error
// wraps ErrInvalid.
func (s ServerCredentials) Check() error {
	if _, err := ServerTLS(s.CA, s.Crt, s.Key); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Identity is what netbootd serves with. It can be replaced while it is in use:
// connections that exist go on, later ones meet the new one.
type Identity struct {
	now  func() time.Time
	held atomic.Pointer[heldIdentity]
}

type heldIdentity struct {
	digest string
	config *tls.Config
}

// NewIdentity makes an Identity; now is the guest's clock.
func NewIdentity(c ServerCredentials, now func() time.Time) (*Identity, error) {
	i := &Identity{now: now}
	return i, i.Replace(c)
}

// Replace puts other credentials in force, or changes nothing and fails.
func (i *Identity) Replace(c ServerCredentials) error {
	config, err := serverTLS(c, i.now)
	if err != nil {
		return err
	}
	i.held.Store(&heldIdentity{c.Digest(), config})
	return nil
}

// Digest names the credentials in force.
func (i *Identity) Digest() string { return i.held.Load().digest }

// TLS is for ServerOptions.TLS; it follows what is in force.
func (i *Identity) TLS() *tls.Config {
	config := i.held.Load().config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return i.held.Load().config, nil
	}
	return config
}

// Trust is what the manager has to talk to one netbootd: the credentials in
// force and, while they are being renewed, their successors. netbootd serves
// with the one or the other, and a client of both reaches it either way: that is
// why whoever renews them may die at any point.
type Trust struct {
	Current *Credentials
	// Next is nil when nothing is being renewed.
	Next *Credentials
}

// nextPrefix is before the keys of the successors in a Secret.
const nextPrefix = "next."

// Encode returns both as a Secret's data.
func (t Trust) Encode() map[string][]byte {
	data := t.Current.Encode()
	if t.Next != nil {
		for key, value := range t.Next.Encode() {
			data[nextPrefix+key] = value
		}
	}
	return data
}

// TrustKeys are all the keys that Encode may use.
func TrustKeys() []string {
	var keys []string
	for key := range maps.Keys((&Credentials{}).Encode()) {
		keys = append(keys, key, nextPrefix+key)
	}
	return keys
}

// DecodeTrust is the reverse of Encode, and as strict as DecodeCredentials.
func DecodeTrust(data map[string][]byte) (Trust, error) {
	current, err := DecodeCredentials(data)
	if err != nil {
		return Trust{}, err
	}
	t := Trust{Current: current}
	next := map[string][]byte{}
	for key, value := range data {
		if name, ok := strings.CutPrefix(key, nextPrefix); ok {
			next[name] = value
		}
	}
	if len(next) == 0 {
		return t, nil
	}
	if t.Next, err = DecodeCredentials(next); err != nil {
		return Trust{}, fmt.Errorf("successors: %w", err)
	}
	return t, nil
}

// Newest are the credentials that a server which starts now is to have.
func (t Trust) Newest() *Credentials {
	if t.Next != nil {
		return t.Next
	}
	return t.Current
}

// ClientTLS is the manager's side: it trusts a netbootd that has either, and
// shows it the certificate that this netbootd trusts. now is the host's clock.
func (t Trust) ClientTLS(now func() time.Time) (*tls.Config, error) {
	roots := x509.NewCertPool()
	var pairs []tls.Certificate
	var latest time.Time
	for _, c := range []*Credentials{t.Current, t.Next} {
		if c == nil {
			continue
		}
		pair, _, leaf, err := load("client", c.CA, c.ClientCrt, c.ClientKey)
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(c.CA)
		pairs = append(pairs, pair)
		if leaf.NotBefore.After(latest) {
			latest = leaf.NotBefore
		}
	}
	if len(pairs) == 0 {
		return nil, errors.New("client credentials: there are none")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: ServerName,
		Time:       notBefore(latest, now),
		GetClientCertificate: func(wanted *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for i := range pairs {
				if wanted.SupportsCertificate(&pairs[i]) == nil {
					return &pairs[i], nil
				}
			}
			return &pairs[0], nil
		},
	}, nil
}

// notBefore is a clock that is never before its own certificate was made: a
// guest without a hardware clock starts in the past, and a host's clock can be
// set back.
func notBefore(made time.Time, now func() time.Time) func() time.Time {
	return func() time.Time {
		if t := now(); t.After(made) {
			return t
		}
		return made.Add(credentialsSkew)
	}
}

// IsUntrusted reports whether a connection failed because one side does not
// accept the other's certificate, which waiting does not change.
func IsUntrusted(err error) bool {
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) {
		return true
	}
	// The other side's refusal comes as an alert, whose type is not exported.
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}
