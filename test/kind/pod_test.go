// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// probeImage is built here and loaded into the node, which cannot pull it.
const probeImage = "pxelab/probe:e2e"

// restrictedPod runs a program that calls the API server and stores a file, under
// the restricted Pod Security Standard.
func restrictedPod(t *testing.T, c *cluster) {
	c.mustKindLab(t, "load", c.buildProbe(t))
	namespace, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "probe-",
		Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods := c.client.CoreV1().Pods(namespace.Name)
	privileged := probePod()
	privileged.Spec.Containers[0].SecurityContext = nil
	if _, err := pods.Create(t.Context(), privileged, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("privileged pod: got error %v, want Forbidden", err)
	}
	claims := c.client.CoreV1().PersistentVolumeClaims(namespace.Name)
	if _, err := claims.Create(t.Context(), probeClaim(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Create(t.Context(), probePod(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.awaitEnd(t, namespace.Name, "probe")
	output, err := pods.GetLogs("probe", &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if pod.Status.Phase != corev1.PodSucceeded {
		t.Errorf("pod: got phase %s, want %s\n%+v", pod.Status.Phase, corev1.PodSucceeded, pod.Status.ContainerStatuses)
	}
	if !strings.Contains(string(output), "uid 65532 reached") {
		t.Errorf("pod: got output %q, want it to contain \"uid 65532 reached\"", output)
	}
	// The volume is removed with the namespace.
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), namespace.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		volumes, err := c.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(volumes.Items) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("deleted namespace: got volumes %+v, want none", volumes.Items)
		}
	}
}

// probeClaim requests a volume of the default class.
func probeClaim() *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}
}

// awaitEnd waits until a pod has succeeded or failed, and returns it.
func (c *cluster) awaitEnd(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		pod, err := c.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return pod
		}
		if time.Now().After(deadline) {
			t.Fatalf("pod: got phase %s after the time limit, want it finished: %+v", pod.Status.Phase, pod.Status)
		}
	}
}

func probePod() *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "probe"},
			}}},
			Containers: []corev1.Container{{
				Name:            "probe",
				Image:           probeImage,
				ImagePullPolicy: corev1.PullNever,
				Args:            []string{"/data/version"},
				VolumeMounts:    []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
				SecurityContext: &corev1.SecurityContext{
					RunAsNonRoot:             &yes,
					ReadOnlyRootFilesystem:   &yes,
					AllowPrivilegeEscalation: &no,
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
			}},
		},
	}
}

// buildProbe builds an image with one static program, without a container engine
// or a registry, and returns its archive.
func (c *cluster) buildProbe(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	layer, archive := filepath.Join(dir, "layer"), filepath.Join(dir, "probe.tar")
	if err := os.Mkdir(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := c.run(t.Context(), "go", "build", "-o", filepath.Join(layer, "probe"), "./test/kind/probe"); err != nil {
		t.Fatalf("building the probe: %v\n%s", err, out)
	}
	spec, err := json.Marshal([]map[string]any{{
		"tags": []string{probeImage}, "layers": []string{layer}, "architecture": runtime.GOARCH,
		"entrypoint": []string{"/probe"}, "user": "65532:65532",
	}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "./hack/imagetar", archive)
	cmd.Dir = c.root
	cmd.Stdin = strings.NewReader(string(spec))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packing the probe: %v\n%s", err, out)
	}
	return archive
}
