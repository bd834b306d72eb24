// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// envCluster is the kubeconfig of a cluster on this host that "make deploy" has
// put the manager into.
const envCluster = "PXELAB_E2E_KUBECONFIG"

const (
	inClusterManager   = "/usr/lib/pxelab/manager"
	inClusterData      = "/var/lib/pxelab/data"
	inClusterNamespace = "pxelab-e2e"
	managerDeployment  = "deployment/pxelab-manager"
)

// TestCluster goes the way of TestLab in a cluster, with what is different
// there: the manager's pod dies, the namespace goes.
func TestCluster(t *testing.T) {
	l := labInCluster(t)
	l.kubectl(t, "apply", "-f", "config/samples/debian")
	l.walk(t, []step{
		{"the API server takes every manifest as it is written", manifestsTaken},
		{"the manager may do what it needs, and nothing else", managerRights},
		{"targets were installed by network", installedByNetwork},
		{"the installed system is what was declared", asDeclared},
		{"kubectl-lab shows consoles, logs and timelines", kubectlLab},
		{"bad input is told and loses nothing", badInput},
		{"a power cycle comes back from the disk", powerCycle},
		{"deleting leaves nothing", deleting},
		{"a new pod of the manager finds the machines' disks", podRestart},
		{"deleting the namespace leaves nothing", namespaceDeleted},
	})
}

// labInCluster makes a namespace for the test, and a kubeconfig that has it as
// its default.
func labInCluster(t *testing.T) *lab {
	t.Helper()
	from := os.Getenv(envCluster)
	if from == "" {
		t.Fatalf("%s names no kubeconfig: run this by «make test-kind»", envCluster)
	}
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Contexts {
		c.Namespace = inClusterNamespace
	}
	l := labIn(t, t.TempDir())
	l.data, l.inCluster, l.namespace = inClusterData, true, inClusterNamespace
	l.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, l.kubeconfig); err != nil {
		t.Fatal(err)
	}
	l.connect(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: inClusterNamespace}}
	if err := l.client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, args := range [][]string{
			{"kubectl", "get", "provisioningservers,bootprofiles,baremetaltargets", "-o", "yaml"},
			{"kubectl", "-n", managerNamespace, "describe", "pods"},
			{"kubectl", "-n", managerNamespace, "logs", managerDeployment, "--tail=200"},
		} {
			out, err := l.command(context.Background(), "bin/controlplane", args...).CombinedOutput()
			t.Logf("---- %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	})
	return l
}

func (l *lab) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.run(t.Context(), "bin/controlplane", append([]string{"kubectl"}, args...)...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// podRestart ends the manager's pod and every machine with it. The next one
// starts them from their disks.
func podRestart(t *testing.T, l *lab) {
	before := l.target(t, "target-1")
	boots := strings.Count(l.serial(t, before), "iPXE")
	l.ssh(t, "target-1", "echo kept | sudo tee /root/pod; sudo sync")
	l.kubectl(t, "-n", managerNamespace, "rollout", "restart", managerDeployment)
	l.kubectl(t, "-n", managerNamespace, "rollout", "status", managerDeployment, "--timeout=10m")

	after := l.await(t, "target-1", "Ready again", func(o *v1alpha1.BareMetalTarget) bool {
		last := o.Status.Timeline[len(o.Status.Timeline)-1]
		return last.Phase == v1alpha1.TargetReady && last.StartedAt.After(before.Status.Timeline[len(before.Status.Timeline)-1].StartedAt.Time)
	})
	if got := l.ssh(t, "target-1", "sudo cat /root/pod"); got != "kept" {
		t.Errorf("what was on the disk is gone: %q", got)
	}
	if strings.Join(before.Status.SSHHostKeys, "\n") != strings.Join(after.Status.SSHHostKeys, "\n") || before.Status.Address != after.Status.Address {
		t.Errorf("keys or address changed:\n%+v\n%+v", before.Status, after.Status)
	}
	if now := strings.Count(l.serial(t, after), "iPXE"); now != boots {
		t.Errorf("iPXE ran again: %d times, was %d", now, boots)
	}
}

// namespaceDeleted removes the whole lab by its namespace.
func namespaceDeleted(t *testing.T, l *lab) {
	var uids []string
	for _, list := range []client.ObjectList{&v1alpha1.BareMetalTargetList{}, &v1alpha1.ProvisioningServerList{}} {
		if err := l.client.List(t.Context(), list, client.InNamespace(l.namespace)); err != nil {
			t.Fatal(err)
		}
		switch list := list.(type) {
		case *v1alpha1.BareMetalTargetList:
			for _, o := range list.Items {
				uids = append(uids, string(o.UID))
			}
		case *v1alpha1.ProvisioningServerList:
			for _, o := range list.Items {
				uids = append(uids, string(o.UID))
			}
		}
	}
	if len(uids) < 2 {
		t.Fatalf("only %v are left to delete", uids)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}
	if err := l.client.Delete(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	l.awaitGone(t, ns)
	for _, uid := range uids {
		if pids := l.processes(t, uid); len(pids) > 0 {
			t.Errorf("processes of machine %s live: %v", uid, pids)
		}
	}
	left, err := os.ReadDir(l.machines(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if entry.IsDir() {
			t.Errorf("%s is left of the machines", entry.Name())
		}
	}
}
