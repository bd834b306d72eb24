// SPDX-License-Identifier: Apache-2.0

package aggregation_test

import (
	"context"
	"encoding/base64"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/accesstest"
	"github.com/pxelab/pxelab/internal/access/aggregation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewRefusesAddresses(t *testing.T) {
	for address, want := range map[string]string{
		":0":          "name the address",
		"0.0.0.0:0":   "name the address",
		"[::1]:0":     "IPv4",
		"127.0.0.1":   "use HOST:PORT",
		"127.0.0.1:x": "listening",
	} {
		_, err := aggregation.New(aggregation.Options{Address: address, Namespace: "kube-system", Log: logr.Discard()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one that contains %q", address, err, want)
		}
	}
}

func newAPIService() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("apiregistration.k8s.io/v1")
	o.SetKind("APIService")
	o.SetName("v1alpha1.access.pxelab.io")
	return o
}

// TestServiceOfManifests checks that a server in a pod sets the authority, again when it is
// lost, and nothing else, although the cluster has no aggregation layer at first.
func TestServiceOfManifests(t *testing.T) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "extension-apiserver-authentication"}}
	manifest := newAPIService()
	manifest.Object["spec"] = map[string]any{"group": "access.pxelab.io", "service": map[string]any{"name": "pxelab-manager-access"}}
	c := fake.NewClientBuilder().WithObjects(config, manifest).Build()
	server, err := aggregation.New(aggregation.Options{
		Client: c, Address: "127.0.0.1:0", Service: types.NamespacedName{Namespace: "pxelab-system", Name: "pxelab-manager-access"},
		Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	config.Data = map[string]string{
		"requestheader-client-ca-file":   string(accesstest.NewFrontProxy(t).AuthorityPEM()),
		"requestheader-username-headers": `["X-Remote-User"]`,
	}
	if err := c.Update(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	o := newAPIService()
	deadline := time.Now().Add(time.Minute)
	for {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		text, _, _ := unstructured.NestedString(o.Object, "spec", "caBundle")
		if pem, err := base64.StdEncoding.DecodeString(text); err == nil && strings.Contains(string(pem), "BEGIN CERTIFICATE") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got APIService %v, want one with an authority", o.Object)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Start = %v, want nil", err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		t.Errorf("after the end: got error %v, want the manifest's APIService to stay", err)
	}
}

func TestReviewer(t *testing.T) {
	var asked *authorizationv1.SubjectAccessReview
	answer := func(review *authorizationv1.SubjectAccessReview) error {
		review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "a role"}
		return nil
	}
	c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
			asked = o.(*authorizationv1.SubjectAccessReview)
			return answer(asked)
		},
	})
	u := access.User{Name: "jane", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"scope": {"lab"}}}
	a := access.Attributes{Verb: "create", Namespace: "a", Resource: "baremetaltargets", Subresource: "ssh", Name: "m"}
	allowed, reason, err := aggregation.Reviewer{Client: c}.Authorize(t.Context(), u, a)
	if !allowed || reason != "a role" || err != nil {
		t.Errorf("got %t, %q, %v, want the cluster's answer", allowed, reason, err)
	}
	want := authorizationv1.SubjectAccessReviewSpec{
		User: "jane", UID: "7", Groups: []string{"g"}, Extra: map[string]authorizationv1.ExtraValue{"scope": {"lab"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: "access.pxelab.io", Version: "v1alpha1", Verb: "create", Namespace: "a",
			Resource: "baremetaltargets", Subresource: "ssh", Name: "m",
		},
	}
	if diff := cmp.Diff(want, asked.Spec); diff != "" {
		t.Errorf("review (-want +got):\n%s", diff)
	}
	answer = func(*authorizationv1.SubjectAccessReview) error { return apierrors.NewTooManyRequests("busy", 1) }
	allowed, _, err = aggregation.Reviewer{Client: c}.Authorize(t.Context(), u, a)
	if allowed || !apierrors.IsTooManyRequests(err) {
		t.Errorf("got %t, error %v, want the cluster's error", allowed, err)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := aggregation.New(aggregation.Options{Address: l.Addr().String(), Namespace: "kube-system", Log: logr.Discard()}); err == nil {
		t.Error("got no error with a port that is in use")
	}
}
