// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"slices"
	"strings"
)

// resources are those that the manager changes; any other is counted as "other".
var resources = []string{"baremetaltargets", "bootprofiles", "provisioningservers", "secrets", "events", "leases"}

const other = "other"

// CountWrites returns a transport that counts the requests for changes that the API
// server answers, whether it accepts them or not. next carries them out.
func (r *Recorder) CountWrites(next http.RoundTripper) http.RoundTripper {
	return &writeCounter{recorder: r, next: next}
}

type writeCounter struct {
	recorder *Recorder
	next     http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (c *writeCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	if verb := writeVerb(req.Method); verb != "" {
		if resource, subresource, ok := resourceOf(req.URL.Path); ok {
			c.recorder.writes.WithLabelValues(resource, subresource, verb).Inc()
		}
	}
	return resp, nil
}

// WrappedRoundTripper is how client-go finds the transport whose idle connections it
// closes.
func (c *writeCounter) WrappedRoundTripper() http.RoundTripper { return c.next }

// writeVerb returns the verb of a method, "" for one that changes nothing.
func writeVerb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return ""
	}
}

// resourceOf returns the resource and the subresource that a path of the API names. The
// path may have a prefix, as behind a proxy.
func resourceOf(path string) (resource, subresource string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	start := slices.IndexFunc(parts, func(p string) bool { return p == "api" || p == "apis" })
	if start < 0 {
		return "", "", false
	}
	version := 2 // "api", version
	if parts[start] == "apis" {
		version = 3 // "apis", group, version
	}
	if parts = parts[start:]; len(parts) <= version {
		return "", "", false
	}
	parts = parts[version:]
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource = parts[0]
	if !slices.Contains(resources, resource) {
		resource = other
	}
	if len(parts) > 2 {
		subresource = other
		if parts[2] == "status" {
			subresource = parts[2]
		}
	}
	return resource, subresource, true
}
