// SPDX-License-Identifier: Apache-2.0

// Package kind tests kind-lab as a user would run it: whether its cluster works,
// and whether it is removed without a trace. It uses the programs in bin/, and
// separate directories, so that it shares no engine with other clusters.
package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pxelab/pxelab/internal/process"
)

// limit bounds every operation of the cluster on a shared host.
const limit = 10 * time.Minute

// name distinguishes this cluster from the user's.
const name = "pxelab-e2e"

// cluster is the cluster under test.
type cluster struct {
	root   string // of the checkout
	dir    string // temporary, of this test
	client kubernetes.Interface
}

func TestCluster(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{root: root, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			if out, err := c.kindLab(context.Background(), "logs", filepath.Join(root, "bin", "kind-logs")); err == nil {
				t.Logf("logs are in bin/kind-logs\n%s", out)
			}
		}
		// The engine's directory is owned by root.
		if out, err := c.kindLab(context.Background(), "clean"); err != nil {
			t.Errorf("clean: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"up creates a working cluster", up},
		{"restricted pod reaches the API server and stores files", restrictedPod},
		{"second up finds the cluster", upAgain},
		{"logs are collected", logs},
		{"stopped cluster is restarted", comeBack},
		{"down leaves nothing behind", down},
	} {
		began := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c) }) {
			t.FailNow()
		}
		t.Logf("%s: %.1f s", step.name, time.Since(began).Seconds())
	}
}

func (c *cluster) data() string  { return filepath.Join(c.dir, "data") }
func (c *cluster) cache() string { return filepath.Join(c.dir, "cache") }

func (c *cluster) kindLab(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, filepath.Join(c.root, "bin", "kind-lab"), append([]string{"--name", name}, args...)...)
}

func (c *cluster) run(ctx context.Context, program string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "PXELAB_DATA_DIR="+c.data(), "PXELAB_CACHE_DIR="+c.cache(),
		"PXELAB_RUNTIME_DIR="+filepath.Join(c.dir, "run"))
	cmd.Stdout = &out
	cmd.Stderr = &out
	err := cmd.Run()
	return out.String(), err
}

func (c *cluster) mustKindLab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.kindLab(t.Context(), args...)
	if err != nil {
		t.Fatalf("kind-lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func up(t *testing.T, c *cluster) {
	// Remove what a killed run has left.
	c.mustKindLab(t, "down")
	image := os.Getenv("PXELAB_KIND_NODE_IMAGE")
	if image == "" {
		image = "auto"
	}
	t.Log("\n" + c.mustKindLab(t, "up", "--node-image", image, "--timeout", limit.String()))
	kubeconfig := strings.TrimSpace(c.mustKindLab(t, "kubeconfig"))
	if info, err := os.Stat(kubeconfig); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: got %v, error %v, want mode 0600", info, err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	nodes, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("got nodes %v, error %v, want one", nodes, err)
	}
	for _, condition := range nodes.Items[0].Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			t.Errorf("node after up: got condition Ready %s, want True: %s", condition.Status, condition.Message)
		}
	}
	pods, err := c.client.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{
		LabelSelector: "k8s-app in (kube-dns, kube-proxy)",
	})
	if err != nil || len(pods.Items) < 2 {
		t.Fatalf("got pods %v of CoreDNS and kube-proxy, error %v, want at least 2", pods, err)
	}
	for _, pod := range pods.Items {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status != corev1.ConditionTrue {
				t.Errorf("pod %s after up: got condition Ready %s, want True: %s", pod.Name, condition.Status, condition.Message)
			}
		}
	}
}

func upAgain(t *testing.T, c *cluster) {
	before, err := c.client.CoreV1().Nodes().Get(t.Context(), name+"-control-plane", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.mustKindLab(t, "up")
	after, err := c.client.CoreV1().Nodes().Get(t.Context(), name+"-control-plane", metav1.GetOptions{})
	if err != nil || after.UID != before.UID {
		t.Errorf("second up: got node %v, error %v, want the same node", after, err)
	}
}

func logs(t *testing.T, c *cluster) {
	dir := t.TempDir()
	c.mustKindLab(t, "logs", dir)
	for _, file := range []string{"kubelet.log", "containerd.log", "images.log"} {
		info, err := os.Stat(filepath.Join(dir, name+"-control-plane", file))
		if err != nil || info.Size() == 0 {
			t.Errorf("%s: got %v, error %v, want a non-empty file", file, info, err)
		}
	}
}

// comeBack interrupts the running cluster, by killing the private engine, or else
// by stopping the node, and restarts it.
func comeBack(t *testing.T, c *cluster) {
	record, err := os.ReadFile(filepath.Join(c.cache(), "kind", "engine", "engine.json"))
	if errors.Is(err, os.ErrNotExist) {
		if out, err := c.run(t.Context(), "docker", "stop", name+"-control-plane"); err != nil {
			t.Fatalf("stopping the node: %v\n%s", err, out)
		}
	} else {
		var engine process.Identity
		if err := errors.Join(err, json.Unmarshal(record, &engine), process.Signal(engine, syscall.SIGKILL)); err != nil {
			t.Fatalf("killing the engine: %v", err)
		}
	}
	t.Log("\n" + c.mustKindLab(t, "up"))
	if _, err := c.client.CoreV1().Nodes().Get(t.Context(), name+"-control-plane", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func down(t *testing.T, c *cluster) {
	t.Log("\n" + c.mustKindLab(t, "down"))
	if out, err := c.kindLab(t.Context(), "kubeconfig"); err == nil {
		t.Errorf("got kubeconfig %s after down, want none", out)
	}
	for _, left := range c.leftovers(t) {
		t.Errorf("after down: got leftover %s on the host, want none", left)
	}
	// down is idempotent.
	c.mustKindLab(t, "down")
}

// leftovers searches the host for this cluster's name and directory.
func (c *cluster) leftovers(t *testing.T) []string {
	var left []string
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && (bytes.Contains(line, []byte(name+"-control-plane")) || bytes.Contains(line, []byte(c.dir))) {
			left = append(left, path+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.dir) {
			left = append(left, "mount "+line)
		}
	}
	// A user's engine may still be running; it must have nothing of this cluster.
	for _, args := range [][]string{
		{"ps", "--all", "--filter", "label=io.x-k8s.kind.cluster=" + name, "--quiet"},
		{"network", "ls", "--filter", "name=" + name, "--quiet"},
	} {
		out, err := exec.CommandContext(t.Context(), "docker", args...).Output()
		if found := strings.TrimSpace(string(out)); err == nil && found != "" {
			left = append(left, "docker "+args[0]+" "+found)
		}
	}
	return left
}
