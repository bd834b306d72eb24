// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pxelab/pxelab/internal/metrics/metricstest"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCountWrites(t *testing.T) {
	r := NewRecorder()
	counting := r.CountWrites(transport(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path == "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/unreachable" {
			return nil, errors.New("connection refused")
		}
		return httptest.NewRecorder().Result(), nil
	}))
	for _, request := range []struct{ method, path string }{
		{http.MethodPatch, "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/a"},
		{http.MethodPatch, "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/a/status"},
		{http.MethodPatch, "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/b/status"},
		{http.MethodPatch, "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/unreachable"},
		{http.MethodPost, "/apis/events.k8s.io/v1/namespaces/n/events"},
		{http.MethodPost, "/api/v1/namespaces/n/secrets"},
		{http.MethodPut, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/pxelab"},
		{http.MethodDelete, "/prefix/of/a/proxy/api/v1/namespaces/n"},
		{http.MethodGet, "/apis/pxelab.io/v1alpha1/baremetaltargets"},
		{http.MethodPost, "/healthz"},
		{http.MethodPost, "/apis"},
		{http.MethodPost, "/apis/pxelab.io/v1alpha1/namespaces/n/baremetaltargets/a/made-up"},
		{http.MethodPost, "/apis/made.up/v1/made-ups"},
	} {
		resp, err := counting.RoundTrip(httptest.NewRequest(request.method, request.path, nil))
		if err == nil {
			_ = resp.Body.Close()
		}
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(r); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"pxelab_api_writes_total{resource=baremetaltargets,subresource=,verb=patch}":       1,
		"pxelab_api_writes_total{resource=baremetaltargets,subresource=status,verb=patch}": 2,
		"pxelab_api_writes_total{resource=baremetaltargets,subresource=other,verb=create}": 1,
		"pxelab_api_writes_total{resource=events,subresource=,verb=create}":                1,
		"pxelab_api_writes_total{resource=secrets,subresource=,verb=create}":               1,
		"pxelab_api_writes_total{resource=leases,subresource=,verb=update}":                1,
		"pxelab_api_writes_total{resource=other,subresource=,verb=create}":                 1,
		"pxelab_api_writes_total{resource=other,subresource=,verb=delete}":                 1,
	}
	if diff := cmp.Diff(want, metricstest.Values(t, registry, "pxelab_api_writes_total")); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if w, ok := counting.(interface{ WrappedRoundTripper() http.RoundTripper }); !ok || w.WrappedRoundTripper() == nil {
		t.Error("client-go does not find the transport that is wrapped")
	}
}
