// SPDX-License-Identifier: Apache-2.0

package netbootapi

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

// Server returns netbootd's part of the credentials.
func (c *Credentials) Server() ServerCredentials {
	return ServerCredentials{CA: c.CA, Crt: c.ServerCrt, Key: c.ServerKey}
}

// Digest returns "sha256:<hex>" over the certificates; it reveals no secret.
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

// Identity holds the credentials that netbootd serves with. They can be replaced
// while in use: existing connections continue, later ones use the new
// credentials. It is safe for concurrent use.
type Identity struct {
	now  func() time.Time
	held atomic.Pointer[heldIdentity]
}

type heldIdentity struct {
	digest string
	config *tls.Config
}

// NewIdentity returns an Identity with c in force; now is the guest's clock.
func NewIdentity(c ServerCredentials, now func() time.Time) (*Identity, error) {
	i := &Identity{now: now}
	return i, i.Replace(c)
}

// Replace puts c in force. On error nothing changes.
func (i *Identity) Replace(c ServerCredentials) error {
	config, err := serverTLS(c, i.now)
	if err != nil {
		return err
	}
	i.held.Store(&heldIdentity{c.Digest(), config})
	return nil
}

// Digest returns the digest of the credentials in force.
func (i *Identity) Digest() string { return i.held.Load().digest }

// TLS returns a server configuration that always uses the credentials in force.
func (i *Identity) TLS() *tls.Config {
	config := i.held.Load().config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return i.held.Load().config, nil
	}
	return config
}

// Trust holds the manager's credentials for one netbootd: those in force and,
// during a renewal, their successors. netbootd serves with either, and a client
// that has both reaches it in both cases, so a renewal may be interrupted at any
// point.
type Trust struct {
	Current *Credentials
	// Next is nil when no renewal is in progress.
	Next *Credentials
}

// nextPrefix precedes the successors' keys in a Secret.
const nextPrefix = "next."

// Encode returns Current and Next as a Secret's data.
func (t Trust) Encode() map[string][]byte {
	data := t.Current.Encode()
	if t.Next != nil {
		for key, value := range t.Next.Encode() {
			data[nextPrefix+key] = value
		}
	}
	return data
}

// TrustKeys returns all keys that Trust.Encode may use, in no particular order.
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

// Newest returns the credentials for a server that starts now: Next, if set.
func (t Trust) Newest() *Credentials {
	if t.Next != nil {
		return t.Next
	}
	return t.Current
}

// ClientTLS returns the manager's TLS configuration. It trusts a netbootd that
// serves with Current or Next, and presents the client certificate that this
// netbootd accepts. now is the host's clock.
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
		return nil, errors.New("client credentials: missing")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// netbootd needs a system call for each record.
		DynamicRecordSizingDisabled: true,

		RootCAs:    roots,
		ServerName: ServerName,
		Time:       notBefore(latest, now),
		GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for i := range pairs {
				if request.SupportsCertificate(&pairs[i]) == nil {
					return &pairs[i], nil
				}
			}
			return &pairs[0], nil
		},
	}, nil
}

// notBefore returns a clock that never shows a time before the certificate's
// start: a guest without a hardware clock boots with a time in the past, and a
// host's clock can be set back.
func notBefore(start time.Time, now func() time.Time) func() time.Time {
	return func() time.Time {
		if t := now(); t.After(start) {
			return t
		}
		return start.Add(credentialsSkew)
	}
}

// IsUntrusted reports whether a connection failed because one side does not
// accept the other's certificate, which waiting does not change.
func IsUntrusted(err error) bool {
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) {
		return true
	}
	// A refusal by the peer arrives as an alert, whose type is not exported.
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}
