// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

// The names of the manager in a cluster to which it is deployed.
const (
	managerNamespace = "pxelab-system"
	managerAccount   = "system:serviceaccount:" + managerNamespace + ":pxelab-manager"
)

// TestManifests checks the manifests of "make deploy" against a real API server,
// without a cluster that could run them.
func TestManifests(t *testing.T) {
	l := labIn(t, t.TempDir())
	env := &envtest.Environment{
		BinaryAssetsDirectory:    filepath.Join(l.root, "bin", "envtest"),
		ControlPlaneStartTimeout: guestLimit,
		ControlPlaneStopTimeout:  guestLimit,
	}
	if _, err := env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	l.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(l.kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	l.apply(t, l.render(t, "default"))
	l.kubectl(t, "wait", "--for=condition=Established", "--timeout=5m", "crd",
		"baremetaltargets.pxelab.io", "bootprofiles.pxelab.io", "provisioningservers.pxelab.io")
	for _, s := range []step{
		{"API server accepts every manifest unchanged", manifestsTaken},
		{"manager has the permissions it needs and no others", managerRights},
		{"manager pod is single, probed and limited", managerPod},
		{"ServiceMonitor and PrometheusRule have only fields of Prometheus Operator", monitorFields},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, l) })
	}
}

// render renders one of config's overlays, as "make deploy" does.
func (l *lab) render(t *testing.T, overlay string) string {
	t.Helper()
	out, err := l.run(t.Context(), "hack/deploy.sh", "render", "pxelab/manager:test", overlay)
	if err != nil {
		t.Fatalf("rendering config/%s: %v\n%s", overlay, err, out)
	}
	return out
}

// apply applies manifests with strict validation: unknown and duplicate fields are
// errors.
func (l *lab) apply(t *testing.T, manifests string, args ...string) string {
	t.Helper()
	args = append([]string{"kubectl", "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"}, args...)
	cmd := l.command(t.Context(), "bin/controlplane", args...)
	cmd.Stdin = strings.NewReader(manifests)
	out, err := l.output(cmd)
	if err != nil {
		t.Errorf("kubectl apply: %v\n%s", err, out)
	}
	t.Log(out)
	return out
}

// manifestsTaken submits every manifest to the API server's validation, defaulting
// and admission, as a dry run.
func manifestsTaken(t *testing.T, l *lab) {
	overlays := []string{"default", "kind", "kvm", "namespaced"}
	if l.inCluster {
		overlays = []string{"kind"} // the deployed claim cannot be replaced by another
	}
	for _, overlay := range overlays {
		out := l.apply(t, l.render(t, overlay), "--dry-run=server")
		// The restricted Pod Security Standard is enforced by warnings. Only the
		// overlay for the host's KVM violates it.
		if strings.Contains(out, "Warning:") && overlay != "kvm" {
			t.Errorf("config/%s: got a warning of the API server, want none", overlay)
		}
	}
	for _, dir := range []string{"config/samples", "config/samples/debian"} {
		t.Log(l.kubectl(t, "apply", "--dry-run=server", "--validate=strict", "-f", dir))
	}
}

// managerRights compares the permissions of the manager's service account, in its
// namespace and in others, with the golden files.
func managerRights(t *testing.T, l *lab) {
	for list, namespace := range map[string]string{"own-namespace": managerNamespace, "elsewhere": "default"} {
		// Output excludes stderr, which names an authorizer that cannot list rules.
		out, err := l.command(t.Context(), "bin/controlplane", "kubectl", "auth", "can-i", "--list",
			"--as="+managerAccount, "-n", namespace).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("in %s:\n%s", namespace, out)
		assert.Check(t, golden.String(string(out), filepath.Join("can-i", list+".txt")))
	}
}

// managerPod checks what no schema or admission plugin requires.
func managerPod(t *testing.T, l *lab) {
	o := &appsv1.Deployment{}
	if err := yaml.Unmarshal([]byte(l.kubectl(t, "-n", managerNamespace, "get", managerDeployment, "-o", "yaml")), o); err != nil {
		t.Fatal(err)
	}
	pod := o.Spec.Template.Spec
	assert.Equal(t, *o.Spec.Replicas, int32(1))
	assert.Equal(t, o.Spec.Strategy.Type, appsv1.RecreateDeploymentStrategyType)
	assert.Assert(t, *pod.TerminationGracePeriodSeconds >= 120, "the termination grace period is too short for guests to shut down")
	assert.Equal(t, len(pod.Containers), 1)
	c := pod.Containers[0]
	assert.Assert(t, c.StartupProbe != nil && c.LivenessProbe != nil && c.ReadinessProbe != nil, "a probe is missing")
	assert.Assert(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := c.Resources.Requests[name], c.Resources.Limits[name]
		assert.Assert(t, !request.IsZero() && !limit.IsZero(), "%s: request %s, limit %s", name, &request, &limit)
	}
	for _, kind := range []string{"poddisruptionbudget", "networkpolicy", "service"} {
		assert.Assert(t, l.kubectl(t, "-n", managerNamespace, "get", kind, "-o", "name") != "", "there is no %s", kind)
	}
}

// monitorFields checks the only manifests whose CRDs the test cluster lacks.
func monitorFields(t *testing.T, l *lab) {
	out, err := l.run(t.Context(), "bin/kustomize", "build", "config/prometheus")
	if err != nil {
		t.Fatalf("kustomize build config/prometheus: %v\n%s", err, out)
	}
	var monitor monitoringv1.ServiceMonitor
	var rules monitoringv1.PrometheusRule
	objects := map[schema.GroupVersionKind]any{
		monitoringv1.SchemeGroupVersion.WithKind(monitoringv1.ServiceMonitorsKind): &monitor,
		monitoringv1.SchemeGroupVersion.WithKind(monitoringv1.PrometheusRuleKind):  &rules,
	}
	for document := range strings.SplitSeq(out, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		object := objects[kind.GroupVersionKind()]
		if object == nil {
			t.Errorf("got a manifest of kind %s, want one of each of %v", kind.GroupVersionKind(), objects)
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	assert.Equal(t, len(monitor.Spec.Endpoints), 1)
	assert.Equal(t, len(rules.Spec.Groups), 1)
}
