// SPDX-License-Identifier: Apache-2.0

package controlplane_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
            description: Load of the rack.
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
			t.Errorf("got mode %v, want 0600", info.Mode())
		}
	})
	t.Run("anonymous requests are rejected", func(t *testing.T) { testNoAnonymous(t, i) })
	t.Run("custom resources", func(t *testing.T) { testCustomResources(t, i) })
	t.Run("workload APIs are disabled", func(t *testing.T) {
		out, err := i.kubectl(t, "", "create", "deployment", "d", "--image=x")
		unknown := slices.ContainsFunc([]string{
			"server could not find the requested resource", "no matches", "doesn't have a resource type",
		}, func(text string) bool { return strings.Contains(out, text) })
		if err == nil || !unknown {
			t.Errorf("creating a Deployment: got error %v, want an unknown resource:\n%s", err, out)
		}
	})
	t.Run("owner references", func(t *testing.T) { testGarbageCollection(t, i) })
	t.Run("namespace deletion", func(t *testing.T) { testNamespaceDeletion(t, i) })
	t.Run("second instance", func(t *testing.T) { testSecondInstance(t, dir, i) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, dir, i) })
}

// testNoAnonymous includes the health endpoints, which only the admin can read.
func testNoAnonymous(t *testing.T, i *instance) {
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(config.Host, "https://127.0.0.1:") {
		t.Errorf("got server %s, want https on 127.0.0.1", config.Host)
	}
	client := anonymousClient()
	client.Timeout = limit
	for _, path := range []string{"/api", "/readyz", "/metrics"} {
		resp, err := client.Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without credentials: got %s, want 401", path, resp.Status)
		}
	}
}

func testCustomResources(t *testing.T, i *instance) {
	i.mustKubectl(t, crd, "apply", "-f", "-")
	i.mustKubectl(t, "", "wait", "--for=condition=Established", "crd/racks.test.pxelab.dev", "--timeout=5m")
	i.mustKubectl(t, "", "create", "namespace", "lab")
	i.mustKubectl(t, rack, "apply", "-f", "-")
	if low := i.mustKubectl(t, "", "get", "rk", "owner", "-n", "lab", "-o", "jsonpath={.spec.low}"); low != "1" {
		t.Errorf("got default %q of low, want 1", low)
	}
	bad := strings.Replace(rack, "high: 3", "high: 0", 1)
	if out, err := i.kubectl(t, bad, "apply", "-f", "-"); err == nil || !strings.Contains(out, "low must not be above high") {
		t.Errorf("violating the CEL rule: got error %v, want the rule's message:\n%s", err, out)
	}
	unknown := strings.Replace(rack, "high: 3", "high: 3, hihg: 4", 1)
	if out, err := i.kubectl(t, unknown, "apply", "-f", "-"); err == nil || !strings.Contains(out, "hihg") {
		t.Errorf("unknown field: got error %v, want one with the field's name:\n%s", err, out)
	}
	changed := strings.Replace(rack, "high: 3", "high: 9", 1)
	out := i.mustKubectl(t, changed, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if !strings.Contains(out, "serverside-applied") {
		t.Errorf("server-side apply: got output %q, want serverside-applied", out)
	}
	// diff and explain use the OpenAPI schema for kinds without a Go type.
	changed = strings.Replace(rack, "high: 3", "high: 8", 1)
	if out, err := i.kubectl(t, changed, "diff", "-f", "-"); exitCode(err) != 1 || !strings.Contains(out, "+  high: 8") {
		t.Errorf("diff: got error %v, want status 1 and the changed line:\n%s", err, out)
	}
	i.mustKubectl(t, "", "explain", "configmap.data")
	if out := i.mustKubectl(t, "", "explain", "racks.spec"); !strings.Contains(out, "Load of the rack.") {
		t.Errorf("explain: want the description, got:\n%s", out)
	}
	if out := i.mustKubectl(t, "", "version"); strings.Count(out, "v1.36.3") != 2 {
		t.Errorf("version: want v1.36.3 for client and server, got:\n%s", out)
	}
}

// testGarbageCollection deletes an owner, a custom resource: its dependent custom
// resource and that one's dependent Secret must be deleted, an object without an
// owner must stay.
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

	// With foreground deletion the owner stays until its dependents are deleted.
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
		t.Fatal("second instance on the same directory: got one that runs, want it to exit")
	}
	if exitCode(second.err) != 1 || !strings.Contains(second.output.String(), "is already using "+filepath.Join(dir, "data")) {
		t.Errorf("second instance: got error %v, want status 1 and the data directory in the message:\n%s", second.err, second.output)
	}
	first.mustKubectl(t, "", "get", "namespace", "lab")
}

// testRestarts stops an instance with an open watch, starts, kills and starts it:
// acknowledged writes must survive, and address and CA must stay the same.
func testRestarts(t *testing.T, dir string, i *instance) {
	before, err := os.ReadFile(i.kubeconfig)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := i.client(t).Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace("lab"))
	must(t, err)
	defer w.Stop()

	if err := i.stop(t, syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: got error %v, want status 0", err)
	}
	i = start(t, dir)
	after, err := os.ReadFile(i.kubeconfig)
	must(t, err)
	if string(before) != string(after) {
		t.Error("the kubeconfig changed by a restart, want it unchanged")
	}
	i.mustKubectl(t, "", "get", "configmap", "bystander", "-n", "lab")
	i.mustKubectl(t, "", "create", "configmap", "last-write", "-n", "lab")
	if err := i.stop(t, syscall.SIGKILL); err == nil {
		t.Error("SIGKILL: got status 0, want a signal")
	}

	i = start(t, dir)
	i.mustKubectl(t, "", "get", "configmap", "last-write", "-n", "lab")
	// The garbage collector must discover custom kinds at start as well.
	i.mustKubectl(t, rack, "apply", "-f", "-")
	c := i.client(t)
	owner := newRack("owner")
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(owner), owner))
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late", Namespace: "lab", OwnerReferences: ownedBy(owner)}}
	must(t, c.Create(t.Context(), dependent))
	must(t, c.Delete(t.Context(), owner))
	waitGone(t, c, dependent)
	if err := i.stop(t, syscall.SIGINT); err != nil {
		t.Errorf("SIGINT: got error %v, want status 0", err)
	}
}

// TestServeEndsWhileStarting stops and kills first starts at various points: SIGTERM
// results in status 0, and the next start succeeds after either signal.
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
		{"etcd starts", appears("etcd.new/member/wal")},
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
					t.Errorf("got error %v, want status 0:\n%s", err, i.output)
				}
				start(t, dir).mustKubectl(t, "", "get", "namespace", "default")
			})
		}
	}
}

// answers reports whether the API server responds to HTTP requests, which is well
// before it is ready.
func answers(dir string) bool {
	port, err := os.ReadFile(filepath.Join(dir, "data", "port"))
	if err != nil {
		return false
	}
	resp, err := anonymousClient().Get("https://127.0.0.1:" + strings.TrimSpace(string(port)) + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return true
}

// anonymousClient returns a client without credentials. Its timeout is short because
// the port is open before the API server accepts connections.
func anonymousClient() *http.Client {
	return &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
}

func TestServeRejectsInvalidArguments(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "config")
	must(t, os.WriteFile(foreign, []byte("apiVersion: v1\nkind: Config\n"), 0o600))
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no data directory": {args: []string{"serve", "--kubeconfig", "k"}, code: 2, want: "--data-dir is required"},
		"no kubeconfig":     {args: []string{"--data-dir", t.TempDir()}, code: 2, want: "--kubeconfig is required"},
		"bad port": {
			args: []string{"serve", "--data-dir", "d", "--kubeconfig", "k", "--port", "70000"}, code: 2, want: "must be between",
		},
		"stray argument":  {args: []string{"serve", "now"}, code: 2, want: `unexpected argument "now"`},
		"unknown command": {args: []string{"kubectrl"}, code: 2, want: `unknown command "kubectrl"`},
		"foreign kubeconfig": {
			args: []string{"serve", "--data-dir", t.TempDir(), "--kubeconfig", foreign}, code: 1, want: "not replaced",
		},
		"data directory is a file": {
			args: []string{"serve", "--data-dir", foreign, "--kubeconfig", "k"}, code: 1, want: "creating the data directory",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := commandIn(t, t.TempDir(), tt.args...)
			if exitCode(err) != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("got status %d, want %d and %q in the output:\n%s", exitCode(err), tt.code, tt.want, out)
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
	wait(t, o.GetName()+" to be deleted", func() bool {
		return apierrors.IsNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(o), o))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
