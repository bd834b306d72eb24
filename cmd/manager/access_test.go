// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/access/accesstest"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// tenants is an API server with an aggregation layer and two namespaces, a and b, with a
// target and a Secret each, and a manager.
type tenants struct {
	env     *envtest.Environment
	admin   client.Client
	manager *running
	data    string
	runtime string
	targets map[string]*v1alpha1.BareMetalTarget
}

func newTenants(t *testing.T) *tenants {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join("..", "..", "bin", "envtest")
	}
	c := &tenants{data: t.TempDir(), runtime: pathstest.Short(t), targets: map[string]*v1alpha1.BareMetalTarget{}}
	c.env = &envtest.Environment{
		BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: limit, ControlPlaneStopTimeout: limit,
		CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
	}
	for flag, value := range accesstest.NewFrontProxy(t).Flags(t) {
		c.env.ControlPlane.GetAPIServer().Configure().Set(flag, value)
	}
	if _, err := c.env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c.admin = c.client(t, c.env.Config)
	for _, path := range []string{"user_roles.yaml", "role.yaml", "access.yaml"} {
		c.applyRoles(t, path)
	}
	for _, namespace := range []string{"a", "b"} {
		c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		c.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lab-ssh"}})
		target := newTarget(namespace)
		c.create(t, target)
		c.targets[namespace] = target
	}
	return c
}

func newTarget(namespace string) *v1alpha1.BareMetalTarget {
	return &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "target-1"},
		Spec: v1alpha1.BareMetalTargetSpec{
			ProvisioningServerRef: v1alpha1.LocalObjectReference{Name: "none"}, BootProfileRef: v1alpha1.LocalObjectReference{Name: "none"},
			Machine: v1alpha1.TargetMachine{
				Machine: v1alpha1.Machine{Memory: resource.MustParse("1Gi")},
				Disks:   []v1alpha1.Disk{{Name: "disk0", Size: resource.MustParse("2Gi")}},
				NICs:    []v1alpha1.NIC{{Name: "lab"}},
			},
		},
	}
}

func (c *tenants) client(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := apiruntime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	k, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (c *tenants) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.admin.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

// applyRoles creates the ClusterRoles of a file of config/rbac.
func (c *tenants) applyRoles(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "rbac", name))
	if err != nil {
		t.Fatal(err)
	}
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := documents.Decode(o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if o.GetKind() == "ClusterRole" {
			c.create(t, o)
		}
	}
}

// user creates a user with ClusterRoles in a namespace, or in all for "".
func (c *tenants) user(t *testing.T, name, namespace string, roles ...string) *envtest.AuthenticatedUser {
	t.Helper()
	for _, role := range roles {
		reference := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
		meta := metav1.ObjectMeta{Namespace: namespace, Name: name + "-" + role}
		if namespace == "" {
			c.create(t, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: reference, Subjects: subjects})
			continue
		}
		c.create(t, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: reference, Subjects: subjects})
	}
	user, err := c.env.AddUser(envtest.User{Name: name, Groups: []string{"system:authenticated"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// start starts the manager with a user's rights, and waits until the API server reaches it.
func (c *tenants) start(t *testing.T, kubeconfig []byte, flags ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	c.manager = startManager(t, path, c.data, c.runtime, flags...)
	admin := accessOf(t, c.env.Config)
	c.manager.until(t, "the access API is available", func(ctx context.Context) bool { return admin.Available(ctx) == nil })
	// The registration is known before all that uses it.
	c.manager.until(t, "a target is found", func(ctx context.Context) bool {
		return !errors.Is(readLog(ctx, admin, "a", nil), access.ErrNoManager)
	})
}

func accessOf(t *testing.T, config *rest.Config) *access.Client {
	t.Helper()
	k, err := access.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func target(namespace string) access.Ref {
	return access.Ref{Namespace: namespace, Kind: access.Target, Name: "target-1"}
}

// readLog reads the log of a namespace's target.
func readLog(ctx context.Context, c *access.Client, namespace string, into *string) error {
	log, err := c.Log(ctx, target(namespace), access.LogOptions{})
	if err != nil {
		return err
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if into != nil {
		*into = string(text)
	}
	return err
}

// machineFiles gives a target a serial log and a serial console whose guest repeats its
// input.
func (c *tenants) machineFiles(t *testing.T, namespace string) {
	t.Helper()
	p := machine.NewPaths(c.data, c.runtime, string(c.targets[namespace].UID))
	for _, dir := range []string{p.Dir, p.Sockets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p.SerialLog, []byte("secret of "+namespace), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.Serial)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			guest, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(guest, guest)
			_ = guest.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// TestTenants checks that users reach the machines of their namespace and no others.
func TestTenants(t *testing.T) {
	c := newTenants(t)
	for _, namespace := range []string{"a", "b"} {
		c.machineFiles(t, namespace)
	}
	c.start(t, c.env.KubeConfig, "--access-bind-address", "127.0.0.1:0")
	ann := c.user(t, "ann", "a", "edit", "editor", "operator")
	vic := c.user(t, "vic", "a", "view", "viewer")
	// A role of a user who may read everything.
	c.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "auditor"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
	}})
	auditor := c.user(t, "auditor", "", "auditor")

	checkOwnNamespace(t, accessOf(t, ann.Config()))
	checkOtherNamespace(t, c.client(t, ann.Config()), accessOf(t, ann.Config()))

	var text string
	viewer := accessOf(t, vic.Config())
	if err := readLog(t.Context(), viewer, "a", &text); err != nil || text != "secret of a" {
		t.Errorf("viewer: got log %q, error %v, want the log", text, err)
	}
	for name, err := range map[string]error{
		"console of a viewer":                    opened(viewer.Console(t.Context(), target("a"))),
		"SSH of a viewer":                        opened(viewer.SSH(t.Context(), target("a"))),
		"console of a user who may read all":     opened(accessOf(t, auditor.Config()).Console(t.Context(), target("a"))),
		"SSH of a user who may read all":         opened(accessOf(t, auditor.Config()).SSH(t.Context(), target("b"))),
		"capacity for the editor of a namespace": capacityOf(t, ann.Config()),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: got error %v, want it to be forbidden", name, err)
		}
	}
	if err := capacityOf(t, c.env.Config); err != nil {
		t.Errorf("capacity for the administrator: got error %v, want none", err)
	}

	// A manager that ends leaves nothing that the API server cannot reach.
	c.manager.end(syscall.SIGTERM)
	if err := accessOf(t, c.env.Config).Available(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("after the end of the manager: got error %v, want %v", err, access.ErrNoManager)
	}
	c.start(t, c.env.KubeConfig, "--access-bind-address", "127.0.0.1:0")
	if err := readLog(t.Context(), viewer, "a", &text); err != nil || text != "secret of a" {
		t.Errorf("viewer, next manager: got log %q, error %v, want the log", text, err)
	}
}

func opened(conn net.Conn, err error) error {
	if err == nil {
		_ = conn.Close()
	}
	return err
}

func capacityOf(t *testing.T, config *rest.Config) error {
	t.Helper()
	_, err := accessOf(t, config).Capacity(t.Context())
	return err
}

// checkOwnNamespace uses what ann may use.
func checkOwnNamespace(t *testing.T, ann *access.Client) {
	t.Helper()
	var text string
	if err := readLog(t.Context(), ann, "a", &text); err != nil || text != "secret of a" {
		t.Errorf("log: got %q, error %v, want the log", text, err)
	}
	console, err := ann.Console(t.Context(), target("a"))
	if err != nil {
		t.Fatalf("console: %v", err)
	}
	defer console.Close()
	if err := console.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(console, "hello")
	answer := make([]byte, 5)
	if _, err := io.ReadFull(console, answer); err != nil || string(answer) != "hello" {
		t.Errorf("console: got %q, error %v, want the input repeated", answer, err)
	}
	if err := opened(ann.SSH(t.Context(), target("a"))); err == nil || apierrors.IsForbidden(err) || errors.Is(err, access.ErrNoManager) {
		t.Errorf("SSH: got error %v, want that the target's server does not exist", err)
	}
}

// checkOtherNamespace tries to use what is not ann's.
func checkOtherNamespace(t *testing.T, objects client.Client, ann *access.Client) {
	t.Helper()
	inB := client.InNamespace("b")
	key := client.ObjectKey{Namespace: "b", Name: "target-1"}
	for name, err := range map[string]error{
		"log":       readLog(t.Context(), ann, "b", nil),
		"console":   opened(ann.Console(t.Context(), target("b"))),
		"SSH":       opened(ann.SSH(t.Context(), target("b"))),
		"Secrets":   objects.List(t.Context(), &corev1.SecretList{}, inB),
		"host keys": objects.Get(t.Context(), key, &v1alpha1.BareMetalTarget{}),
		"profiles":  objects.List(t.Context(), &v1alpha1.BootProfileList{}, inB),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s of namespace b: got error %v, want it to be forbidden", name, err)
		}
	}
	// Paths that two parsers might read differently.
	for _, m := range []access.Ref{
		{Namespace: "a/baremetaltargets/x/log/../../../../b", Kind: access.Target, Name: "target-1"},
		{Namespace: "a", Kind: "baremetaltargets/target-1/log/../../../../namespaces/b/baremetaltargets", Name: "target-1"},
		{Namespace: "b", Kind: access.Target, Name: "target-1/../target-1"},
	} {
		log, err := ann.Log(t.Context(), m, access.LogOptions{})
		if err == nil {
			text, _ := io.ReadAll(log)
			_ = log.Close()
			t.Errorf("log of %+v: got %q, want an error", m, text)
		}
	}
}

// TestLeastRights runs a manager as in a cluster: with the roles of config/rbac, with the
// right to work in one namespace, and with the manifests' APIService and Service.
func TestLeastRights(t *testing.T) {
	c := newTenants(t)
	for _, namespace := range []string{"a", "b"} {
		c.machineFiles(t, namespace)
	}
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "pxelab-system"}})
	user := c.user(t, "manager", "a", "manager-role")
	c.create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "manager-access"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "manager-access"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "manager"}},
	})
	c.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "lease"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "create", "update"}},
	}})
	c.create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "pxelab-system", Name: "lease"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "lease"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "manager"}},
	})
	address := freeAddress(t)
	c.createManifests(t, address)
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	c.start(t, kubeconfig, "--lease-namespace", "pxelab-system", "--watch-namespaces", "a",
		"--access-bind-address", address, "--access-service", "pxelab-system/pxelab-manager-access")
	c.manager.until(t, "the target of namespace a is observed", func(ctx context.Context) bool {
		o := c.targets["a"]
		return c.admin.Get(ctx, client.ObjectKeyFromObject(o), o) == nil && o.Status.Phase == v1alpha1.TargetPending
	})
	o := c.targets["b"]
	if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || o.Status.Phase != "" {
		t.Errorf("target of namespace b: got phase %q, error %v, want none", o.Status.Phase, err)
	}
	admin := accessOf(t, c.env.Config)
	var text string
	if err := readLog(t.Context(), admin, "a", &text); err != nil || text != "secret of a" {
		t.Errorf("log in namespace a: got %q, error %v, want the log", text, err)
	}
	if err := readLog(t.Context(), admin, "b", nil); !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "--watch-namespaces") {
		t.Errorf("log in namespace b: got error %v, want that the manager does not watch it", err)
	}
	c.manager.end(syscall.SIGTERM)
	if !c.manager.cmd.ProcessState.Success() {
		t.Errorf("got exit status %v, want 0\n%s", c.manager.cmd.ProcessState, c.manager.output)
	}
	if strings.Contains(c.manager.output.String(), "forbidden") {
		t.Errorf("the manager lacks a right:\n%s", c.manager.output)
	}
}

// createManifests creates the APIService of config/access, and a Service that leads to an
// address of this host instead of a pod.
func (c *tenants) createManifests(t *testing.T, address string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "access", "apiservice.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &o.Object); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	service := o.Object["spec"].(map[string]any)["service"].(map[string]any)
	service["name"] = "pxelab-" + service["name"].(string) // as config/default does
	service["port"] = resourcePort(t, port)
	c.create(t, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "pxelab-system", Name: "pxelab-manager-access"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "127.0.0.1"},
	})
	c.create(t, o)
}

func resourcePort(t *testing.T, text string) int64 {
	t.Helper()
	var port int64
	if _, err := fmt.Sscan(text, &port); err != nil {
		t.Fatal(err)
	}
	return port
}
