// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// envCluster is the kubeconfig of a cluster on this host to which "make deploy"
// has deployed the manager.
const envCluster = "PXELAB_E2E_KUBECONFIG"

const (
	inClusterManager   = "/usr/lib/pxelab/manager"
	inClusterData      = "/var/lib/pxelab/data"
	inClusterRuntime   = "/run/pxelab/lab"
	inClusterNamespace = "pxelab-e2e"
	managerDeployment  = "deployment/pxelab-manager"
)

// TestCluster runs the steps of TestLab in a cluster, and what differs there: a
// restart of the manager's pod, which power-cycles every machine, and the
// deletion of the namespace.
func TestCluster(t *testing.T) {
	l := labInCluster(t)
	l.kubectl(t, "apply", "-f", "config/samples/debian")
	l.runSteps(t, []step{
		{"API server accepts every manifest unchanged", manifestsTaken},
		{"manager has the permissions it needs and no others", managerRights},
		{"targets are installed by network", installedByNetwork},
		{"installed system matches the spec", matchesSpec},
		{"kubectl-lab shows consoles, logs and timelines", kubectlLab},
		{"users of other namespaces reach nothing", tenantsApart},
		{"invalid input is reported and harmless", badInput},
		{"deleting a target leaves nothing behind", deleting},
		{"new manager pod finds the machines' disks", podRestart},
		{"deleting the namespace leaves nothing behind", namespaceDeleted},
	})
}

// labInCluster creates a namespace for the test, and a kubeconfig with it as the
// default namespace.
func labInCluster(t *testing.T) *lab {
	t.Helper()
	from := os.Getenv(envCluster)
	if from == "" {
		t.Fatalf("%s is not set; run this test with \"make test-kind\"", envCluster)
	}
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Contexts {
		c.Namespace = inClusterNamespace
	}
	l := labIn(t, t.TempDir())
	l.data = inClusterData
	l.runtime = inClusterRuntime
	l.inCluster = true
	l.namespace = inClusterNamespace
	l.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, l.kubeconfig); err != nil {
		t.Fatal(err)
	}
	l.connect(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: inClusterNamespace}}
	switch err := l.client.Delete(t.Context(), ns); {
	case err == nil: // left by a failed run
		l.awaitGone(t, ns)
	case !apierrors.IsNotFound(err):
		t.Fatal(err)
	}
	ns = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: inClusterNamespace}}
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

// podRoot returns the root directory of the manager's pod as seen from this host.
func (l *lab) podRoot(t *testing.T) string {
	t.Helper()
	// There may be managers of several clusters: find the one of this cluster by
	// the name of its pod.
	pods := strings.Fields(l.kubectl(t, "-n", managerNamespace, "get", "pods", "-o", "jsonpath={.items[*].metadata.name}"))
	for _, pid := range l.processes(t, inClusterManager) {
		root := filepath.Join("/proc", strconv.Itoa(pid), "root")
		name, err := os.ReadFile(filepath.Join(root, "etc", "hostname"))
		if err == nil && slices.Contains(pods, strings.TrimSpace(string(name))) {
			return root
		}
	}
	t.Fatalf("found no manager process on this host for pods %v", pods)
	return ""
}

// podRestart restarts the manager's pod, which shuts down every machine. The next
// pod boots them from their disks.
func podRestart(t *testing.T, l *lab) {
	const shutdown = "reboot: Power down" // the kernel's last message
	before := l.target(t, "target-1")
	serial := l.serial(t, before)
	boots, shutdowns := strings.Count(serial, "iPXE"), strings.Count(serial, shutdown)
	l.ssh(t, "target-1", "echo kept | sudo tee /root/pod")
	l.kubectl(t, "-n", managerNamespace, "rollout", "restart", managerDeployment)
	l.kubectl(t, "-n", managerNamespace, "rollout", "status", managerDeployment, "--timeout=10m")

	after := l.await(t, "target-1", "Ready again", func(o *v1alpha1.BareMetalTarget) bool {
		last := o.Status.Timeline[len(o.Status.Timeline)-1]
		return last.Phase == v1alpha1.TargetReady &&
			last.StartedAt.After(before.Status.Timeline[len(before.Status.Timeline)-1].StartedAt.Time)
	})
	var phases []v1alpha1.TargetPhase
	for _, record := range after.Status.Timeline {
		if record.StartedAt.After(before.Status.Timeline[len(before.Status.Timeline)-1].StartedAt.Time) {
			phases = append(phases, record.Phase)
		}
	}
	if phases[0] != v1alpha1.TargetStopped {
		t.Errorf("got phases %v since the restart, want Stopped first: the old pod records that its machines are off", phases)
	}
	if got := l.ssh(t, "target-1", "sudo cat /root/pod"); got != "kept" {
		t.Errorf("got file content %q, want \"kept\"", got)
	}
	sameHostKeysAndAddress(t, before, after)
	serial = l.serial(t, after)
	if now := strings.Count(serial, "iPXE"); now != boots {
		t.Errorf("got %d iPXE starts, want %d as before", now, boots)
	}
	if now := strings.Count(serial, shutdown); now != shutdowns+1 {
		t.Errorf("got %d guest shutdowns, want one more than %d", now, shutdowns)
	}
}

// namespaceDeleted deletes the whole lab with its namespace.
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
		t.Fatalf("got only %v to delete, want at least 2 machines", uids)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace}}
	if err := l.client.Delete(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	l.awaitGone(t, ns)
	for _, uid := range uids {
		l.nothingLeft(t, uid)
	}
	left, err := os.ReadDir(filepath.Join(l.podRoot(t), l.data, "machines"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if entry.IsDir() {
			t.Errorf("got leftover directory %s, want no machines", entry.Name())
		}
	}
}
