// SPDX-License-Identifier: Apache-2.0

package controlplane_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/aggregation"
)

// machines is an access.Backend with one target in every namespace, whose SSH port repeats
// its input.
type machines struct{ dir string }

func (machines) DialSSH(context.Context, access.Ref) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		_, _ = io.Copy(there, there)
	}()
	return here, nil
}

func (m machines) SerialSocket(context.Context, access.Ref) (string, error) {
	return filepath.Join(m.dir, "none"), nil
}

func (m machines) SerialLog(_ context.Context, r access.Ref) (string, error) {
	return filepath.Join(m.dir, r.Namespace), nil
}

func (machines) Capacity(context.Context) (access.Capacity, error) { return access.Capacity{}, nil }

// TestAccess makes the embedded control plane forward the access API to a manager on this
// host, for users of two namespaces.
func TestAccess(t *testing.T) {
	i := start(t, t.TempDir())
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig)
	must(t, err)
	b := machines{t.TempDir()}
	for _, namespace := range []string{"a", "b"} {
		i.mustKubectl(t, "", "create", "namespace", namespace)
		must(t, os.WriteFile(filepath.Join(b.dir, namespace), []byte("secret of "+namespace), 0o600))
	}
	i.mustKubectl(t, "", "apply", "-f", filepath.Join("..", "..", "config", "rbac", "user_roles.yaml"))
	server, err := aggregation.New(aggregation.Options{
		Client: i.client(t), Backend: b, Address: "127.0.0.1:0", Namespace: "kube-system", Log: logr.Discard(),
	})
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	admin, err := access.NewClient(config)
	must(t, err)
	wait(t, "the access API is available", func() bool { return admin.Available(t.Context()) == nil })

	checkAccess(t, i, config)
	if resources := i.mustKubectl(t, "", "api-resources", "--api-group=access.pxelab.io"); strings.Contains(resources, "error") {
		t.Errorf("kubectl api-resources: got %s, want no error", resources)
	}
	stop()
	must(t, <-ended)
	if out := i.mustKubectl(t, "", "get", "apiservices", "-o", "name"); strings.Contains(out, "access.pxelab.io") {
		t.Errorf("after the end of the server: got APIServices %s, want none of the access API", out)
	}
}

// checkAccess uses the access API as a service account of namespace a.
func checkAccess(t *testing.T, i *instance, config *rest.Config) {
	t.Helper()
	i.mustKubectl(t, "", "create", "serviceaccount", "ann", "-n", "a")
	for _, role := range []string{"edit", "editor", "operator"} {
		i.mustKubectl(t, "", "create", "rolebinding", role, "-n", "a", "--clusterrole="+role, "--serviceaccount=a:ann")
	}
	user := rest.AnonymousClientConfig(config)
	user.BearerToken = strings.TrimSpace(i.mustKubectl(t, "", "create", "token", "ann", "-n", "a"))
	ann, err := access.NewClient(user)
	must(t, err)
	in := func(namespace string) access.Ref {
		return access.Ref{Namespace: namespace, Kind: access.Target, Name: "target-1"}
	}

	log, err := ann.Log(t.Context(), in("a"), access.LogOptions{})
	must(t, err)
	text, err := io.ReadAll(log)
	if _ = log.Close(); err != nil || string(text) != "secret of a" {
		t.Errorf("log: got %q, error %v, want that of namespace a", text, err)
	}
	conn, err := ann.SSH(t.Context(), in("a"))
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "hello")
	must(t, err)
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello" {
		t.Errorf("SSH: got %q, error %v, want the input repeated", answer, err)
	}
	for name, request := range map[string]func() error{
		"log":     func() error { return closed(ann.Log(t.Context(), in("b"), access.LogOptions{})) },
		"console": func() error { return closed(ann.Console(t.Context(), in("b"))) },
		"SSH":     func() error { return closed(ann.SSH(t.Context(), in("b"))) },
	} {
		if err := request(); !apierrors.IsForbidden(err) {
			t.Errorf("%s of namespace b: got error %v, want it to be forbidden", name, err)
		}
	}
	objects, err := client.New(user, client.Options{})
	must(t, err)
	if err := objects.List(t.Context(), &corev1.SecretList{}, client.InNamespace("b")); !apierrors.IsForbidden(err) {
		t.Errorf("Secrets of namespace b: got error %v, want them to be forbidden", err)
	}
}

func closed[C io.Closer](c C, err error) error {
	if err == nil {
		_ = c.Close()
	}
	return err
}

// unreachable is the registration of a manager that was killed.
const unreachable = `
apiVersion: v1
kind: Service
metadata: {name: pxelab-access, namespace: kube-system}
spec: {type: ExternalName, externalName: 127.0.0.1}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1alpha1.access.pxelab.io}
spec:
  group: access.pxelab.io
  version: v1alpha1
  groupPriorityMinimum: 100
  versionPriority: 15
  insecureSkipTLSVerify: true
  service: {name: pxelab-access, namespace: kube-system, port: 1}
`

// TestNamespaceDeletionWithoutManager deletes a namespace while the API server does not
// reach the manager.
func TestNamespaceDeletionWithoutManager(t *testing.T) {
	i := start(t, t.TempDir())
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig)
	must(t, err)
	i.mustKubectl(t, unreachable, "apply", "-f", "-")
	i.mustKubectl(t, "", "wait", "--for=condition=Available=False", "--timeout=5m", "apiservice/v1alpha1.access.pxelab.io")
	admin, err := access.NewClient(config)
	must(t, err)
	if err := admin.Available(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("got error %v, want %v", err, access.ErrNoManager)
	}
	i.mustKubectl(t, "", "create", "namespace", "doomed")
	i.mustKubectl(t, "", "create", "configmap", "c", "-n", "doomed")
	i.mustKubectl(t, "", "delete", "namespace", "doomed", "--timeout=5m")
}
