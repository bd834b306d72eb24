// SPDX-License-Identifier: Apache-2.0

// Command volumes provisions the node's default StorageClass: for each claim of a
// scheduled pod it creates a directory on the node that every user can write to,
// and it removes the directory with the claim. It runs on a node, for that node
// only, and does not enforce quotas.
//
//	volumes --kubeconfig FILE --dir DIR
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// provisioner is the provisioner of the StorageClass.
	provisioner = "pxelab.io/node-directory"
	// resync is the interval at which failures are retried.
	resync = 10 * time.Second

	annSelectedNode  = "volume.kubernetes.io/selected-node"
	annProvisioner   = "volume.kubernetes.io/storage-provisioner"
	annProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig")
	dir := flag.String("dir", "", "directory in which to create the volumes' directories")
	flag.Parse()
	if err := run(context.Background(), *kubeconfig, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, kubeconfig, dir string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	v := &volumes{client: client, dir: dir, changed: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactory(client, resync)
	claims, made := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), made.Informer()} {
		if _, err := informer.AddEventHandler(v); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		for _, o := range claims.Informer().GetStore().List() {
			v.report(v.provide(ctx, o.(*corev1.PersistentVolumeClaim)))
		}
		for _, o := range made.Informer().GetStore().List() {
			v.report(v.remove(ctx, o.(*corev1.PersistentVolume)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.changed:
		}
	}
}

// volumes creates and removes volumes, one at a time.
type volumes struct {
	client  kubernetes.Interface
	dir     string
	changed chan struct{}
}

// OnAdd, OnUpdate and OnDelete notify run of a change.
func (v *volumes) OnAdd(any, bool)   { v.notify() }
func (v *volumes) OnUpdate(any, any) { v.notify() }
func (v *volumes) OnDelete(any)      { v.notify() }

func (v *volumes) notify() {
	select {
	case v.changed <- struct{}{}:
	default: // a notification is pending
	}
}

// report logs an error; the failed operation is retried at the next resync.
func (v *volumes) report(err error) {
	if err != nil {
		log.Print(err)
	}
}

func name(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// provide creates the volume of a claim for which the scheduler has selected a
// node. It is idempotent.
func (v *volumes) provide(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	node := claim.Annotations[annSelectedNode]
	if claim.Annotations[annProvisioner] != provisioner || claim.Spec.VolumeName != "" || node == "" || claim.DeletionTimestamp != nil {
		return nil
	}
	path := filepath.Join(v.dir, name(claim))
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	// The pod may run as any user.
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	_, err := v.client.CoreV1().PersistentVolumes().Create(ctx, volumeOf(claim, path, node), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating a volume for %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

func volumeOf(claim *corev1.PersistentVolumeClaim, path, node string) *corev1.PersistentVolume {
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name(claim),
			Annotations: map[string]string{annProvisionedBy: provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              class,
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
				}},
			}}}},
		},
	}
}

// remove removes a released volume of this provisioner and its directory.
func (v *volumes) remove(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Annotations[annProvisionedBy] != provisioner || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	// Do not trust the path in the object: derive it from the name.
	path := filepath.Join(v.dir, filepath.Base(volume.Name))
	err := os.RemoveAll(path)
	if err == nil {
		err = v.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing volume %s: %w", volume.Name, err)
	}
	return nil
}
