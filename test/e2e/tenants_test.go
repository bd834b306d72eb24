// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// tenantsApart uses the lab as a service account with the role edit in another namespace,
// and then as one of the lab's own.
func tenantsApart(t *testing.T, l *lab) {
	const other = "pxelab-e2e-tenant"
	l.kubectl(t, "create", "namespace", other)
	t.Cleanup(func() {
		_, _ = l.run(context.WithoutCancel(t.Context()), "bin/controlplane", "kubectl", "delete", "namespace", other, "--timeout=5m")
	})
	stranger := l.serviceAccount(t, other, "stranger")
	for _, args := range [][]string{
		{"logs", "target-1"}, {"console", "target-1"}, {"proxy", "target-1"}, {"logs", "server/lab"}, {"console", "server/lab"},
		{"ssh", "target-1"}, {"timeline"}, {"capacity"},
	} {
		out, err := l.run(t.Context(), "bin/kubectl-lab", append([]string{"--kubeconfig", stranger, "-n", l.namespace}, args...)...)
		if err == nil || !strings.Contains(out, "forbidden") {
			t.Errorf("kubectl lab %v of a user of another namespace: got error %v, want it to be forbidden:\n%s", args, err, out)
		}
	}
	for _, resource := range []string{"secrets", "baremetaltargets", "bootprofiles", "baremetaltargets.access.pxelab.io/log"} {
		out, err := l.run(t.Context(), "bin/controlplane", "kubectl", "--kubeconfig", stranger, "-n", l.namespace, "auth", "can-i", "get", resource)
		if err == nil || !strings.Contains(out, "no") {
			t.Errorf("%s: got %s, want that the user of another namespace cannot get them", resource, out)
		}
	}
	friend := l.serviceAccount(t, l.namespace, "friend")
	out, err := l.run(t.Context(), "bin/kubectl-lab", "--kubeconfig", friend, "-n", l.namespace, "logs", "target-1")
	if err != nil || !strings.Contains(out, "iPXE") {
		t.Errorf("kubectl lab logs with the role edit: got error %v, %d bytes, want the log", err, len(out))
	}
	out, err = l.run(t.Context(), "bin/kubectl-lab", "--kubeconfig", friend, "-n", l.namespace, "ssh", "target-1", "--", "echo", "reached")
	if err != nil || !strings.Contains(out, "reached") {
		t.Errorf("kubectl lab ssh with the role edit: got error %v, want a login:\n%s", err, out)
	}
}

// serviceAccount creates a service account with the role edit in a namespace, and returns
// the path of its kubeconfig.
func (l *lab) serviceAccount(t *testing.T, namespace, name string) string {
	t.Helper()
	l.kubectl(t, "create", "serviceaccount", name, "-n", namespace)
	l.kubectl(t, "create", "rolebinding", name, "-n", namespace, "--clusterrole=edit", "--serviceaccount="+namespace+":"+name)
	config, err := clientcmd.LoadFromFile(l.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(l.kubectl(t, "create", "token", name, "-n", namespace, "--duration=2h"))
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: {Token: token}}
	for _, c := range config.Contexts {
		c.AuthInfo = name
	}
	path := filepath.Join(t.TempDir(), name)
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}
