// SPDX-License-Identifier: Apache-2.0

package controlplane_test

import (
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestEnvtest starts the links as controller-runtime starts the upstream binaries.
func TestEnvtest(t *testing.T) {
	env := &envtest.Environment{
		BinaryAssetsDirectory:    filepath.Join(bin, "envtest"),
		ControlPlaneStartTimeout: limit,
		ControlPlaneStopTimeout:  limit,
	}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(config, client.Options{})
	must(t, err)
	ctx := t.Context()
	must(t, c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lab"}}))
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "lab"}}
	must(t, c.Create(ctx, owner))
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: "owned", Namespace: "lab",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
	}}
	must(t, c.Create(ctx, owned))
	var list corev1.ConfigMapList
	must(t, c.List(ctx, &list, client.InNamespace("lab")))
	if len(list.Items) != 2 {
		t.Errorf("got %d ConfigMaps, want 2", len(list.Items))
	}

	user, err := env.AddUser(envtest.User{Name: "someone", Groups: []string{"unprivileged"}}, nil)
	must(t, err)
	other, err := client.New(user.Config(), client.Options{})
	must(t, err)
	if err := other.List(ctx, &list); client.IgnoreNotFound(err) == nil {
		t.Error("listing ConfigMaps as an unprivileged user: got no error, want Forbidden")
	}
}
