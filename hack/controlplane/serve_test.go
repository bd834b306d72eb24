// SPDX-License-Identifier: Apache-2.0

package controlplane_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const crd = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: racks.test.pxelab.dev}
spec:
  group: test.pxelab.dev
  scope: Namespaced
  names: {plural: racks, singular: rack, kind: Rack, shortNames: [rk]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the rack shall hold.
            properties:
              low: {type: integer, default: 1}
              high: {type: integer}
            x-kubernetes-validations:
            - rule: "self.low <= self.high"
              message: low must not be above high
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
`

const rack = `
apiVersion: test.pxelab.dev/v1
kind: Rack
metadata: {name: owner, namespace: lab}
spec: {high: 3}
`

func TestServe(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)

	t.Run("kubeconfig is private", func(t *testing.T) {
		info, err := os.Stat(i.kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, want 0600", info.Mode())
		}
	})
	t.Run("no entry without credentials", func(t *testing.T) { testNoAnonymous(t, i) })
	t.Run("custom resources", func(t *testing.T) { testCustomResources(t, i) })
	t.Run("workloads are refused", func(t *testing.T) {
		out, err := i.kubectl(t, "", "create", "deployment", "d", "--image=x")
		if err == nil || !strings.Contains(out, "server could not find the requested resource") && !strings.Contains(out, "no matches") && !strings.Contains(out, "doesn't have a resource type") {
			t.Errorf("a deployment was not refused as unknown: %v\n%s", err, out)
		}
	})
	t.Run("owner references", func(t *testing.T) { testGarbageCollection(t, i) })
	t.Run("namespace deletion", func(t *testing.T) { testNamespaceDeletion(t, i) })
	t.Run("second instance", func(t *testing.T) { testSecondInstance(t, dir, i) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, dir, i) })
}

// testNoAnonymous also covers the health endpoints, which are for the admin.
func testNoAnonymous(t *testing.T, i *instance) {
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(config.Host, "https://127.0.0.1:") {
		t.Errorf("server is %s, want it on 127.0.0.1 with TLS", config.Host)
	}
	client := stranger()
	client.Timeout = limit
	for _, path := range []string{"/api", "/readyz", "/metrics"} {
		resp, err := client.Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s answers %s to a stranger, want 401", path, resp.Status)
		}
	}
}

func testCustomResources(t *testing.T, i *instance) {
	i.mustKubectl(t, crd, "apply", "-f", "-")
	i.mustKubectl(t, "", "wait", "--for=condition=Established", "crd/racks.test.pxelab.dev", "--timeout=5m")
	i.mustKubectl(t, "", "create", "namespace", "lab")
	i.mustKubectl(t, rack, "apply", "-f", "-")
	if low := i.mustKubectl(t, "", "get", "rk", "owner", "-n", "lab", "-o", "jsonpath={.spec.low}"); low != "1" {
		t.Errorf("default of low is %q, want 1", low)
	}
	bad := strings.Replace(rack, "high: 3", "high: 0", 1)
	if out, err := i.kubectl(t, bad, "apply", "-f", "-"); err == nil || !strings.Contains(out, "low must not be above high") {
		t.Errorf("the rule did not refuse: %v\n%s", err, out)
	}
	unknown := strings.Replace(rack, "high: 3", "high: 3, hihg: 4", 1)
	if out, err := i.kubectl(t, unknown, "apply", "-f", "-"); err == nil || !strings.Contains(out, "hihg") {
		t.Errorf("an unknown field was not refused: %v\n%s", err, out)
	}
	if out := i.mustKubectl(t, strings.Replace(rack, "high: 3", "high: 9", 1), "apply", "--server-side", "--force-conflicts", "-f", "-"); !strings.Contains(out, "serverside-applied") {
		t.Errorf("server-side apply said %q", out)
	}
	// These two go by schemas where they have no Go type at hand.
	if out, err := i.kubectl(t, strings.Replace(rack, "high: 3", "high: 8", 1), "diff", "-f", "-"); exitCode(err) != 1 || !strings.Contains(out, "+  high: 8") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	i.mustKubectl(t, "", "explain", "configmap.data")
	if out := i.mustKubectl(t, "", "explain", "racks.spec"); !strings.Contains(out, "What the rack shall hold.") {
		t.Errorf("explain does not know the description:\n%s", out)
	}
	if out := i.mustKubectl(t, "", "version"); strings.Count(out, "v1.36.3") != 2 {
		t.Errorf("versions:\n%s", out)
	}
}

// testGarbageCollection deletes a custom owner: its custom dependent and that
// one's built-in dependent go, an object without owner stays.
func testGarbageCollection(t *testing.T, i *instance) {
	c, ctx := i.client(t), t.Context()
	owner := newRack("owner")
	must(t, c.Get(ctx, client.ObjectKeyFromObject(owner), owner))
	child := newRack("child")
	must(t, unstructured.SetNestedField(child.Object, int64(5), "spec", "high"))
	child.SetOwnerReferences(ownedBy(owner))
	must(t, c.Create(ctx, child))
	grandchild := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "grandchild", Namespace: "lab", OwnerReferences: ownedBy(child)}}
	must(t, c.Create(ctx, grandchild))
	bystander := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bystander", Namespace: "lab"}}
	must(t, c.Create(ctx, bystander))

	must(t, c.Delete(ctx, owner))
	waitGone(t, c, child)
	waitGone(t, c, grandchild)
	must(t, c.Get(ctx, client.ObjectKeyFromObject(bystander), bystander))

	// Foreground: the owner stays until its dependents are gone.
	parent := newRack("parent")
	must(t, unstructured.SetNestedField(parent.Object, int64(5), "spec", "high"))
	must(t, c.Create(ctx, parent))
	blocking := ownedBy(parent)
	block := true
	blocking[0].BlockOwnerDeletion = &block
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dependent", Namespace: "lab", OwnerReferences: blocking}}
	must(t, c.Create(ctx, dependent))
	must(t, c.Delete(ctx, parent, client.PropagationPolicy(metav1.DeletePropagationForeground)))
	waitGone(t, c, parent)
	waitGone(t, c, dependent)
}

func testNamespaceDeletion(t *testing.T, i *instance) {
	i.mustKubectl(t, "", "create", "namespace", "doomed")
	i.mustKubectl(t, strings.Replace(rack, "namespace: lab", "namespace: doomed", 1), "apply", "-f", "-")
	i.mustKubectl(t, "", "create", "secret", "generic", "s", "--from-literal=a=b", "-n", "doomed")
	i.mustKubectl(t, `
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: l, namespace: doomed}
spec: {holderIdentity: me, leaseDurationSeconds: 15}
---
apiVersion: v1
kind: Event
metadata: {name: e, namespace: doomed}
involvedObject: {kind: Rack, name: owner, namespace: doomed}
reason: Tested
type: Normal
`, "apply", "-f", "-")
	i.mustKubectl(t, "", "delete", "namespace", "doomed", "--timeout=5m")
	waitGone(t, i.client(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
}

func testSecondInstance(t *testing.T, dir string, first *instance) {
	second := launch(t, dir)
	select {
	case <-second.exited:
	case <-time.After(limit):
		t.Fatal("a second instance on the same directory went on")
	}
	if exitCode(second.err) != 1 || !strings.Contains(second.output.String(), "already serves from "+filepath.Join(dir, "data")) {
		t.Errorf("second instance: %v\n%s", second.err, second.output)
	}
	first.mustKubectl(t, "", "get", "namespace", "lab")
}

// testRestarts stops with an open watch, starts, kills, starts: what was
// acknowledged is there, at the same address and with the same CA.
func testRestarts(t *testing.T, dir string, i *instance) {
	before, err := os.ReadFile(i.kubeconfig)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := i.client(t).Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace("lab"))
	must(t, err)
	defer w.Stop()

	if err := i.stop(t, syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v, want status 0", err)
	}
	i = start(t, dir)
	after, err := os.ReadFile(i.kubeconfig)
	must(t, err)
	if string(before) != string(after) {
		t.Error("the kubeconfig changed over a restart")
	}
	i.mustKubectl(t, "", "get", "configmap", "bystander", "-n", "lab")
	i.mustKubectl(t, "", "create", "configmap", "last-words", "-n", "lab")
	if err := i.stop(t, syscall.SIGKILL); err == nil {
		t.Error("killed, yet status 0")
	}

	i = start(t, dir)
	i.mustKubectl(t, "", "get", "configmap", "last-words", "-n", "lab")
	// The collector learns of custom kinds at start as well.
	i.mustKubectl(t, rack, "apply", "-f", "-")
	c := i.client(t)
	owner := newRack("owner")
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(owner), owner))
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "lab", OwnerReferences: ownedBy(owner)}}
	must(t, c.Create(t.Context(), dependent))
	must(t, c.Delete(t.Context(), owner))
	waitGone(t, c, dependent)
	if err := i.stop(t, syscall.SIGINT); err != nil {
		t.Errorf("SIGINT: %v, want status 0", err)
	}
}

// TestServeEndsWhileStarting stops and kills first starts in their various
// moments: a stop is status 0, and the next start works after either.
func TestServeEndsWhileStarting(t *testing.T) {
	appears := func(file string) func(string) bool {
		return func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, "data", file))
			return err == nil
		}
	}
	moments := []struct {
		name string
		is   func(dir string) bool
	}{
		{"port chosen", appears("port")},
		{"etcd begins", appears("etcd.new/member/wal")},
		{"etcd elects itself", appears("etcd.new/sock")},
		{"etcd serves", appears("etcd/sock")},
		{"API server answers", answers},
	}
	for _, m := range moments {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			t.Run(m.name+"/"+sig.String(), func(t *testing.T) {
				dir := t.TempDir()
				i := launch(t, dir)
				wait(t, m.name, func() bool { return m.is(dir) })
				if err := i.stop(t, sig); sig == syscall.SIGTERM && err != nil {
					t.Errorf("%v\n%s", err, i.output)
				}
				start(t, dir).mustKubectl(t, "", "get", "namespace", "default")
			})
		}
	}
}

// answers is true from the moment the API server speaks HTTP, well before it is
// ready.
func answers(dir string) bool {
	port, err := os.ReadFile(filepath.Join(dir, "data", "port"))
	if err != nil {
		return false
	}
	resp, err := stranger().Get("https://127.0.0.1:" + strings.TrimSpace(string(port)) + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return true
}

// stranger is a client without credentials. It is given up on soon because the
// port is open before anybody answers on it.
func stranger() *http.Client {
	return &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
}

func TestServeRefuses(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "config")
	must(t, os.WriteFile(foreign, []byte("apiVersion: v1\nkind: Config\n"), 0o600))
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no data directory": {args: []string{"serve", "--kubeconfig", "k"}, code: 2, want: "--data-dir is missing"},
		"no kubeconfig":     {args: []string{"--data-dir", t.TempDir()}, code: 2, want: "--kubeconfig is missing"},
		"bad port":          {args: []string{"serve", "--data-dir", "d", "--kubeconfig", "k", "--port", "70000"}, code: 2, want: "not between"},
		"stray argument":    {args: []string{"serve", "now"}, code: 2, want: `unexpected argument "now"`},
		"unknown command":   {args: []string{"kubectrl"}, code: 2, want: `no command "kubectrl"`},
		"foreign kubeconfig": {
			args: []string{"serve", "--data-dir", t.TempDir(), "--kubeconfig", foreign}, code: 1, want: "left alone",
		},
		"data directory is a file": {args: []string{"serve", "--data-dir", foreign, "--kubeconfig", "k"}, code: 1, want: "making the data directory"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := commandIn(t, t.TempDir(), tt.args...)
			if exitCode(err) != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("status %d, want %d and %q:\n%s", exitCode(err), tt.code, tt.want, out)
			}
		})
	}
}

func newRack(name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("test.pxelab.dev/v1")
	u.SetKind("Rack")
	u.SetName(name)
	u.SetNamespace("lab")
	return u
}

func ownedBy(o *unstructured.Unstructured) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Name: o.GetName(), UID: o.GetUID()}}
}

func waitGone(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	wait(t, o.GetName()+" to go", func() bool {
		return apierrors.IsNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(o), o))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
