// SPDX-License-Identifier: Apache-2.0

package access

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// User is a user whom the API server has authenticated.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Attributes are what a user wants to do, with a resource of the access API.
type Attributes struct {
	Verb, Namespace, Resource, Subresource, Name string
}

// String returns the action as the API server words it.
func (a Attributes) String() string {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	text := fmt.Sprintf("%s resource %q in API group %q", a.Verb, resource, Group)
	if a.Namespace == "" {
		return text + " at the cluster scope"
	}
	return text + fmt.Sprintf(" in the namespace %q", a.Namespace)
}

// RequestTrust defines which requests are accepted as those of the cluster's API server,
// and how these name the user. It is immutable.
//
// See https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer.
type RequestTrust struct {
	// ClientCAs are the authorities of the API server's client certificate.
	ClientCAs *x509.CertPool
	// AllowedNames are the accepted common names of the certificate; none means any name.
	AllowedNames []string
	// The headers with the user's name, UID and groups, of which the first two are searched
	// in order, and the prefixes of the headers with other attributes.
	NameHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// ParseRequestTrust parses the data of the ConfigMap extension-apiserver-authentication,
// in which an API server with an aggregation layer publishes its configuration.
func ParseRequestTrust(data map[string]string) (*RequestTrust, error) {
	t := &RequestTrust{ClientCAs: x509.NewCertPool()}
	if !t.ClientCAs.AppendCertsFromPEM([]byte(data["requestheader-client-ca-file"])) {
		return nil, errors.New("the cluster's API server has no aggregation layer: its requestheader-client-ca-file has no certificate; " +
			"start it with --requestheader-client-ca-file and --proxy-client-cert-file")
	}
	for key, to := range map[string]*[]string{
		"requestheader-allowed-names":        &t.AllowedNames,
		"requestheader-username-headers":     &t.NameHeaders,
		"requestheader-uid-headers":          &t.UIDHeaders,
		"requestheader-group-headers":        &t.GroupHeaders,
		"requestheader-extra-headers-prefix": &t.ExtraPrefixes,
	} {
		if data[key] == "" {
			continue
		}
		if err := json.Unmarshal([]byte(data[key]), to); err != nil {
			return nil, fmt.Errorf("parsing %s: %w", key, err)
		}
	}
	if len(t.NameHeaders) == 0 {
		return nil, errors.New("the cluster's API server names no header for users; start it with --requestheader-username-headers")
	}
	return t, nil
}

// User returns the user of a request whose client certificate the TLS server has verified
// with ClientCAs.
func (t *RequestTrust) User(r *http.Request) (User, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return User{}, errors.New("the request has no verified client certificate")
	}
	name := r.TLS.VerifiedChains[0][0].Subject.CommonName
	if len(t.AllowedNames) > 0 && !slices.Contains(t.AllowedNames, name) {
		return User{}, fmt.Errorf("%q is not the name of the API server's client certificate", name)
	}
	u := User{Name: firstHeader(r.Header, t.NameHeaders), UID: firstHeader(r.Header, t.UIDHeaders)}
	if u.Name == "" {
		return User{}, errors.New("the request names no user")
	}
	for _, header := range t.GroupHeaders {
		u.Groups = append(u.Groups, r.Header.Values(header)...)
	}
	for header, values := range r.Header {
		if key, ok := t.extraKey(header); ok {
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[key] = append(u.Extra[key], values...)
		}
	}
	return u, nil
}

// extraKey returns the key of an attribute from the name of its header, in which the API
// server escapes what a header's name must not contain.
func (t *RequestTrust) extraKey(header string) (string, bool) {
	for _, prefix := range t.ExtraPrefixes {
		if len(header) < len(prefix) || !strings.EqualFold(header[:len(prefix)], prefix) {
			continue
		}
		key := strings.ToLower(header[len(prefix):])
		if unescaped, err := url.PathUnescape(key); err == nil {
			key = unescaped
		}
		return key, true
	}
	return "", false
}

func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if value := h.Get(name); value != "" {
			return value
		}
	}
	return ""
}
