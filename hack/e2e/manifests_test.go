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
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

// The manager's name in the clusters that it is deployed to.
const (
	managerNamespace = "pxelab-system"
	managerAccount   = "system:serviceaccount:" + managerNamespace + ":pxelab-manager"
)

// TestManifests checks what "make deploy" applies against a real API server,
// without a cluster that could run it.
func TestManifests(t *testing.T) {
	l := labIn(t, t.TempDir())
	env := &envtest.Environment{
		BinaryAssetsDirectory: filepath.Join(l.root, "bin", "envtest"), ControlPlaneStartTimeout: guestLimit, ControlPlaneStopTimeout: guestLimit,
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
		{"the API server takes every manifest as it is written", manifestsTaken},
		{"the manager may do what it needs, and nothing else", managerRights},
		{"the manager's pod is alone, watched and bounded", managerPod},
		{"Prometheus' operator knows the monitor's fields", monitorFields},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, l) })
	}
}

// render is one of config's overlays, as "make deploy" applies it.
func (l *lab) render(t *testing.T, overlay string) string {
	t.Helper()
	out, err := l.run(t.Context(), "hack/deploy.sh", "render", "pxelab/manager:test", overlay)
	if err != nil {
		t.Fatalf("config/%s: %v\n%s", overlay, err, out)
	}
	return out
}

// apply applies manifests, strictly: an unknown field is an error, and so is
// one that is there twice.
func (l *lab) apply(t *testing.T, manifests string, args ...string) string {
	t.Helper()
	args = append([]string{"kubectl", "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"}, args...)
	cmd := l.command(t.Context(), "bin/controlplane", args...)
	cmd.Stdin = strings.NewReader(manifests)
	out, err := l.output(cmd)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(out)
	return out
}

// manifestsTaken has the API server check every manifest against its schema,
// defaults and admission, and keep none of them.
func manifestsTaken(t *testing.T, l *lab) {
	overlays := []string{"default", "kind", "kvm"}
	if l.inCluster {
		overlays = []string{"kind"} // one claim cannot become another's
	}
	for _, overlay := range overlays {
		out := l.apply(t, l.render(t, overlay), "--dry-run=server")
		// The restricted Pod Security Standard is warned of, and only the overlay
		// that takes the host's KVM goes beyond it.
		if strings.Contains(out, "Warning:") && overlay != "kvm" {
			t.Errorf("the API server warns of config/%s", overlay)
		}
	}
	for _, dir := range []string{"config/samples", "config/samples/debian"} {
		t.Log(l.kubectl(t, "apply", "--dry-run=server", "--validate=strict", "-f", dir))
	}
}

// managerRights compares what the manager's service account may do, where it
// runs and elsewhere, with the golden lists.
func managerRights(t *testing.T, l *lab) {
	for list, namespace := range map[string]string{"own-namespace": managerNamespace, "elsewhere": "default"} {
		// Its standard error says which authorizer cannot list its rules.
		out, err := l.command(t.Context(), "bin/controlplane", "kubectl", "auth", "can-i", "--list",
			"--as="+managerAccount, "-n", namespace).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("in %s:\n%s", namespace, out)
		assert.Check(t, golden.String(string(out), filepath.Join("can-i", list+".txt")))
	}
}

// managerPod checks what no schema and no admission asks for.
func managerPod(t *testing.T, l *lab) {
	o := &appsv1.Deployment{}
	if err := yaml.Unmarshal([]byte(l.kubectl(t, "-n", managerNamespace, "get", managerDeployment, "-o", "yaml")), o); err != nil {
		t.Fatal(err)
	}
	pod := o.Spec.Template.Spec
	assert.Equal(t, *o.Spec.Replicas, int32(1))
	assert.Equal(t, o.Spec.Strategy.Type, appsv1.RecreateDeploymentStrategyType)
	assert.Assert(t, *pod.TerminationGracePeriodSeconds >= 120, "guests are not given the time to shut down")
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

// monitorFields checks the one manifest whose kind no cluster has by itself.
func monitorFields(t *testing.T, l *lab) {
	out, err := l.run(t.Context(), "bin/kustomize", "build", "config/prometheus")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var monitor monitoringv1.ServiceMonitor
	if err := yaml.UnmarshalStrict([]byte(out), &monitor); err != nil {
		t.Fatal(err)
	}
	if gvk := monitor.GroupVersionKind(); gvk != monitoringv1.SchemeGroupVersion.WithKind(monitoringv1.ServiceMonitorsKind) {
		t.Errorf("it is a %s", gvk)
	}
}
