// SPDX-License-Identifier: Apache-2.0

package access

import (
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// endpoint is a subresource of a machine.
type endpoint string

const (
	endpointSSH     endpoint = "ssh"
	endpointConsole endpoint = "console"
	endpointLog     endpoint = "log"
)

// endpoints has the subresources of each machine, in the order of the discovery document.
var endpoints = []endpoint{endpointConsole, endpointLog, endpointSSH}

// verb returns the verb that a user must be allowed to use. The streams carry input to
// the machine. A WebSocket is opened by GET, which the API server authorises as "get", so
// a role that may only read everything must not be sufficient for them.
func (e endpoint) verb() string {
	if e == endpointLog {
		return "get"
	}
	return "create"
}

// The only object of the resource that has the manager's capacity.
const (
	capacityResource = "capacities"
	capacityName     = "manager"
)

// route is what a path of the access API names.
type route struct {
	// discovery returns the document for a path without a resource.
	discovery func() any
	machine   Ref
	endpoint  endpoint
	// capacity is set for the manager's capacity.
	capacity bool
}

// parseRoute parses a path, which must have exactly the API's form: the API server has
// authorised what its own parser made of the same path, which skips slashes at both ends.
func parseRoute(path string) (route, bool) {
	switch path {
	case "/apis":
		return route{discovery: func() any { return groupList() }}, true
	case "/apis/" + Group:
		return route{discovery: func() any { return group() }}, true
	case "/apis/" + Group + "/" + Version:
		return route{discovery: func() any { return resourceList() }}, true
	}
	rest, ok := strings.CutPrefix(path, "/apis/"+Group+"/"+Version+"/")
	if !ok {
		return route{}, false
	}
	if rest == capacityResource+"/"+capacityName {
		return route{capacity: true}, true
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[0] != "namespaces" {
		return route{}, false
	}
	r := route{machine: Ref{Namespace: parts[1], Kind: Kind(parts[2]), Name: parts[3]}, endpoint: endpoint(parts[4])}
	if r.machine.Kind != Target && r.machine.Kind != Server || !slices.Contains(endpoints, r.endpoint) {
		return route{}, false
	}
	if len(validation.IsDNS1123Label(r.machine.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(r.machine.Name)) > 0 {
		return route{}, false
	}
	return r, true
}

// attributes returns what the user of a request must be allowed to do.
func (r route) attributes() Attributes {
	if r.capacity {
		return Attributes{Verb: "get", Resource: capacityResource, Name: capacityName}
	}
	return Attributes{
		Verb: r.endpoint.verb(), Namespace: r.machine.Namespace,
		Resource: string(r.machine.Kind), Subresource: string(r.endpoint), Name: r.machine.Name,
	}
}

var groupVersion = schema.GroupVersion{Group: Group, Version: Version}

// group is the discovery document of the group.
func group() *metav1.APIGroup {
	version := metav1.GroupVersionForDiscovery{GroupVersion: groupVersion.String(), Version: Version}
	return &metav1.APIGroup{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
		Name:     Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
	}
}

func groupList() *metav1.APIGroupList {
	return &metav1.APIGroupList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"},
		Groups:   []metav1.APIGroup{*group()},
	}
}

// resourceList is the discovery document of the version. No resource can be listed, so
// controllers that work on all resources leave the group alone.
func resourceList() *metav1.APIResourceList {
	list := &metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: groupVersion.String(),
	}
	for _, kind := range []struct{ kind, object string }{{string(Target), "BareMetalTarget"}, {string(Server), "ProvisioningServer"}} {
		for _, e := range endpoints {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: kind.kind + "/" + string(e), Namespaced: true, Kind: kind.object, Verbs: metav1.Verbs{e.verb()},
			})
		}
	}
	list.APIResources = append(list.APIResources, metav1.APIResource{
		Name: capacityResource, SingularName: "capacity", Kind: "Capacity", Verbs: metav1.Verbs{"get"},
	})
	return list
}

// isRead reports whether a request does not ask for a change.
func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }
