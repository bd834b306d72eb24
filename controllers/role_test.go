// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
)

// permission is one right, as a role's rule gives it.
type permission struct{ group, resource, verb string }

func (p permission) String() string { return fmt.Sprintf("%s %s.%s", p.verb, p.resource, p.group) }

// unseen are the rights that no request of these tests shows.
var unseen = []permission{
	// OwnerReferencesPermissionEnforcement requires it for blockOwnerDeletion.
	{"pxelab.io", "provisioningservers/finalizers", "update"},
	// An event that comes again makes a series of the first, minutes later.
	{"events.k8s.io", "events", "patch"},
	// Where the API server knows no watch that begins with a list.
	{"", "secrets", "list"},
	{"pxelab.io", "baremetaltargets", "list"},
	{"pxelab.io", "bootprofiles", "list"},
	{"pxelab.io", "provisioningservers", "list"},
}

// usage records which rights a client makes use of. It is safe for concurrent
// use.
type usage struct {
	mu   sync.Mutex
	used map[permission]bool
}

// wrap records what goes through a transport.
func (u *usage) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if p, ok := needed(r); ok {
			u.mu.Lock()
			if u.used == nil {
				u.used = map[permission]bool{}
			}
			u.used[p] = true
			u.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// needed is the right that a request to the API needs. Requests outside of the
// resources, discovery among them, need none of a role.
func needed(r *http.Request) (permission, bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var p permission
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		p.group = parts[1]
		parts = parts[3:]
	default:
		return p, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	p.resource = parts[0]
	if len(parts) > 2 {
		p.resource += "/" + parts[2]
	}
	switch r.Method {
	case http.MethodGet:
		p.verb = "list"
		if len(parts) > 1 {
			p.verb = "get"
		}
		if r.URL.Query().Get("watch") != "" {
			p.verb = "watch"
		}
	case http.MethodPost:
		p.verb = "create"
	case http.MethodPut:
		p.verb = "update"
	case http.MethodPatch:
		p.verb = "patch"
	case http.MethodDelete:
		p.verb = "delete"
		if len(parts) == 1 {
			p.verb = "deletecollection"
		}
	}
	return p, true
}

// unneeded are the rights of the role that nothing made use of.
func (u *usage) unneeded(role rbacv1.ClusterRole) []permission {
	u.mu.Lock()
	defer u.mu.Unlock()
	var idle []permission
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					p := permission{group, resource, verb}
					if !u.used[p] && !slices.Contains(unseen, p) {
						idle = append(idle, p)
					}
				}
			}
		}
	}
	return idle
}
