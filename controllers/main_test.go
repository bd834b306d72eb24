// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// limit is how long anything may take. It is far above what it takes.
const limit = 2 * time.Minute

// cluster is the control plane that the tests of this package share. Each test
// has a namespace of its own in it.
var cluster struct {
	scheme *runtime.Scheme
	// admin may do everything; manager only what config/rbac/role.yaml grants.
	admin, manager *rest.Config
	client         client.Client
	role           *rbacv1.ClusterRole
	rights         usage // of the manager
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "controllers:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join("..", "bin", "envtest")
	}
	if _, err := os.Stat(filepath.Join(assets, "kube-apiserver")); err != nil {
		return 1, fmt.Errorf("these tests need the control plane: %w; run «make controlplane» first", err)
	}
	before := goleak.IgnoreCurrent()
	env := &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		CRDDirectoryPaths:        []string{filepath.Join("..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: limit,
		ControlPlaneStopTimeout:  limit,
	}
	if cluster.admin, err = env.Start(); err != nil {
		return 1, fmt.Errorf("starting the control plane: %w", err)
	}
	defer func() {
		err = errors.Join(err, env.Stop())
		if code == 0 && err == nil {
			// net/http waits half a second before it closes a connection whose request was
			// refused before its end.
			err = goleak.Find(before, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
		}
	}()
	cluster.admin.QPS = 500
	cluster.admin.Burst = 500
	if err := prepare(env); err != nil {
		return 1, err
	}
	if code = m.Run(); code != 0 || flag.Lookup("test.run").Value.String() != "" {
		return code, nil // not all that the manager does was done
	}
	if idle := cluster.rights.unneeded(*cluster.role); len(idle) > 0 {
		return 1, fmt.Errorf("the manager's role has rights that no test makes use of, take them out or test what needs them: %v", idle)
	}
	return 0, nil
}

func prepare(env *envtest.Environment) (err error) {
	cluster.scheme = runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(cluster.scheme), v1alpha1.AddToScheme(cluster.scheme)); err != nil {
		return err
	}
	if cluster.client, err = client.New(cluster.admin, client.Options{Scheme: cluster.scheme}); err != nil {
		return err
	}
	user, err := env.AddUser(envtest.User{Name: "pxelab-manager"}, nil)
	if err != nil {
		return err
	}
	cluster.manager = user.Config()
	cluster.manager.Wrap(cluster.rights.wrap)
	cluster.manager.QPS = 500
	cluster.manager.Burst = 500
	return grantRole()
}

// grantRole gives the manager's user the generated role and nothing else, so
// that a verb that no marker declares fails the tests; run looks for those that
// are declared and not needed.
func grantRole() error {
	raw, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		return err
	}
	cluster.role = &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict(raw, cluster.role); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "manager"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: cluster.role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "pxelab-manager"}},
	}
	ctx := context.Background()
	return errors.Join(cluster.client.Create(ctx, cluster.role.DeepCopy()), cluster.client.Create(ctx, binding))
}
