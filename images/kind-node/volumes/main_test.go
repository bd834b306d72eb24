// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	class := "standard"
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "1-2", Annotations: map[string]string{
			annProvisioner: provisioner, annSelectedNode: "n",
		}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestProvide(t *testing.T) {
	now := metav1.Now()
	for name, tt := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		want   bool
	}{
		"pod scheduled":     {want: true},
		"no node selected":  {change: func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, annSelectedNode) }},
		"other provisioner": {change: func(c *corev1.PersistentVolumeClaim) { c.Annotations[annProvisioner] = "other" }},
		"already bound":     {change: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }},
		"being deleted":     {change: func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &now }},
		"no annotations":    {change: func(c *corev1.PersistentVolumeClaim) { c.Annotations = nil }},
		"no StorageClass":   {change: func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := &volumes{client: fake.NewClientset(), dir: t.TempDir()}
			for range 2 { // provide is idempotent
				if err := v.provide(t.Context(), claim(tt.change)); err != nil {
					t.Fatal(err)
				}
			}
			made, err := v.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
			if err != nil || (len(made.Items) == 1) != tt.want {
				t.Fatalf("got volumes %v, error %v, want one: %v", made.Items, err, tt.want)
			}
			info, err := os.Stat(filepath.Join(v.dir, "pvc-1-2"))
			if tt.want && (err != nil || info.Mode().Perm() != 0o777) {
				t.Errorf("got directory %v, error %v, want mode 0777", info, err)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	v := &volumes{client: fake.NewClientset(), dir: filepath.Join(dir, "volumes")}
	if err := os.MkdirAll(filepath.Join(other, "file"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := v.provide(t.Context(), claim(nil)); err != nil {
		t.Fatal(err)
	}
	volume, err := v.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1-2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A bound volume stays.
	volume.Status.Phase = corev1.VolumeBound
	if err := v.remove(t.Context(), volume); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(volume.Spec.Local.Path); err != nil {
		t.Error(err)
	}
	// The directory depends on the name alone, not on the object's path.
	volume.Status.Phase = corev1.VolumeReleased
	volume.Spec.Local.Path = other
	for range 2 {
		if err := v.remove(t.Context(), volume); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-1-2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got error %v for the volume, want NotFound", err)
	}
	if _, err := os.Stat(filepath.Join(v.dir, "pvc-1-2")); !os.IsNotExist(err) {
		t.Errorf("got error %v for the directory, want not exist", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("directory outside: got error %v, want it kept", err)
	}
}
