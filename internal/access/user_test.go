// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/accesstest"
)

// clerk is an Authenticator and an Authorizer that records what it was asked.
type clerk struct {
	user   access.User
	asked  []access.Attributes
	denies bool
	broken error
}

func (c *clerk) User(*http.Request) (access.User, error) {
	if c.user.Name == "" {
		return access.User{}, errors.New("not the API server")
	}
	return c.user, nil
}

func (c *clerk) Authorize(_ context.Context, u access.User, a access.Attributes) (bool, string, error) {
	if u.Name != c.user.Name {
		return false, "another user", nil
	}
	c.asked = append(c.asked, a)
	return !c.denies, "no role", c.broken
}

// request sends a request without an upgrade.
func request(t *testing.T, c *clerk, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	h := access.NewHandler(access.HandlerOptions{Backend: &backend{dir: t.TempDir()}, Authenticator: c, Authorizer: c})
	defer h.Close()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

// TestAuthorization checks what users must be allowed to do, and that the API server's
// parser and the handler's cannot disagree on the path.
func TestAuthorization(t *testing.T) {
	const machines = "/apis/access.pxelab.io/v1alpha1/namespaces/a/"
	attributes := func(verb, resource, subresource string) *access.Attributes {
		return &access.Attributes{Verb: verb, Namespace: "a", Resource: resource, Subresource: subresource, Name: "m"}
	}
	for path, want := range map[string]struct {
		code  int
		asked *access.Attributes
	}{
		machines + "baremetaltargets/m/ssh":        {426, attributes("create", "baremetaltargets", "ssh")},
		machines + "provisioningservers/m/console": {426, attributes("create", "provisioningservers", "console")},
		machines + "baremetaltargets/m/log":        {404, attributes("get", "baremetaltargets", "log")},
		"/apis/access.pxelab.io/v1alpha1/capacities/manager": {
			200, &access.Attributes{Verb: "get", Resource: "capacities", Name: "manager"},
		},
		machines + "baremetaltargets/m/logs":                         {code: 404},
		machines + "baremetaltargets/m":                              {code: 404},
		machines + "baremetaltargets/m/log/":                         {code: 404},
		machines + "baremetaltargets//log":                           {code: 404},
		machines + "/baremetaltargets/m/log":                         {code: 404},
		machines + "baremetaltargets/../log":                         {code: 404},
		machines + "baremetaltargets/m%2F..%2Fn/log":                 {code: 404},
		machines + "pods/m/log":                                      {code: 404},
		"/apis/access.pxelab.io/v1alpha1/namespaces//x/m/log":        {code: 404},
		"/apis/access.pxelab.io/v1/namespaces/a/m/log":               {code: 404},
		"/apis/access.pxelab.io/v1alpha1/baremetaltargets/m/log":     {code: 404},
		"/apis/access.pxelab.io/v1alpha1/capacities/other":           {code: 404},
		"/v1/namespaces/a/baremetaltargets/m/log":                    {code: 404},
		"//apis/access.pxelab.io/v1alpha1/capacities/manager":        {code: 404},
		"/apis/access.pxelab.io/v1alpha1/namespaces/a/b/c/d/e/f/log": {code: 404},
	} {
		t.Run(strings.ReplaceAll(path, "/", "|"), func(t *testing.T) {
			c := &clerk{user: access.User{Name: "jane"}}
			w := request(t, c, http.MethodGet, path)
			var asked *access.Attributes
			if len(c.asked) > 0 {
				asked = &c.asked[0]
			}
			if diff := cmp.Diff(want.asked, asked); diff != "" || w.Code != want.code {
				t.Errorf("got status %d, want %d; asked (-want +got):\n%s", w.Code, want.code, diff)
			}
		})
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	jane := access.User{Name: "jane"}
	const log = "/apis/access.pxelab.io/v1alpha1/namespaces/a/baremetaltargets/target-1/log"
	for name, tt := range map[string]struct {
		clerk  *clerk
		method string
		code   int
		text   string
	}{
		"not the API server": {&clerk{}, "GET", 401, "only the cluster's API server"},
		"not allowed":        {&clerk{user: jane, denies: true}, "GET", 403, `user "jane" cannot get resource "baremetaltargets/log" in API group "access.pxelab.io" in the namespace "a": no role`},
		"not known":          {&clerk{user: jane, broken: errors.New("etcd is down")}, "GET", 500, "etcd is down"},
		"another method":     {&clerk{user: jane}, "DELETE", 405, "use GET"},
	} {
		t.Run(name, func(t *testing.T) {
			w := request(t, tt.clerk, tt.method, log)
			var status metav1.Status
			if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
				t.Fatalf("got %s: %v", w.Body, err)
			}
			if w.Code != tt.code || int(status.Code) != tt.code || !strings.Contains(status.Message, tt.text) {
				t.Errorf("got status %d, %+v, want %d and %q", w.Code, status, tt.code, tt.text)
			}
		})
	}
}

func TestDiscovery(t *testing.T) {
	c := &clerk{user: access.User{Name: "system:kube-aggregator"}, denies: true}
	for path, kind := range map[string]string{
		"/apis":                           "APIGroupList",
		"/apis/access.pxelab.io":          "APIGroup",
		"/apis/access.pxelab.io/v1alpha1": "APIResourceList",
	} {
		w := request(t, c, http.MethodGet, path)
		var document metav1.TypeMeta
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || w.Code != http.StatusOK || document.Kind != kind {
			t.Errorf("%s: got status %d, %s, want kind %s", path, w.Code, w.Body, kind)
		}
	}
	if w := request(t, &clerk{}, http.MethodGet, "/apis"); w.Code != http.StatusUnauthorized {
		t.Errorf("request that is not the API server's: got status %d, want 401", w.Code)
	}
}

// trustData is the ConfigMap of a usual cluster, with a certificate authority.
func trustData(authority []byte) map[string]string {
	return map[string]string{
		"requestheader-client-ca-file":       string(authority),
		"requestheader-allowed-names":        `["front-proxy-client"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
}

func TestParseRequestTrust(t *testing.T) {
	authority := accesstest.NewFrontProxy(t)
	if _, err := access.ParseRequestTrust(trustData(authority.AuthorityPEM())); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	for name, change := range map[string]func(map[string]string){
		"no authority":  func(d map[string]string) { delete(d, "requestheader-client-ca-file") },
		"no header":     func(d map[string]string) { delete(d, "requestheader-username-headers") },
		"damaged names": func(d map[string]string) { d["requestheader-allowed-names"] = "front-proxy-client" },
	} {
		data := trustData(authority.AuthorityPEM())
		change(data)
		if _, err := access.ParseRequestTrust(data); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
