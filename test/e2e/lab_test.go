// SPDX-License-Identifier: Apache-2.0

// Package e2e starts a whole lab with real guests, as a user would, and checks the
// installed systems. It uses the programs in bin/ and the images of "make images",
// in separate directories.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// guestLimit bounds everything that a guest does. It is generous, for software
// emulation on a shared host.
const guestLimit = 30 * time.Minute

// lab is a lab in separate directories.
type lab struct {
	root    string // of the checkout
	data    string
	runtime string // for sockets
	env     []string
	client  client.WithWatch
	// namespace is that of the objects, and the default of kubeconfig.
	namespace, kubeconfig string
	// view is the path on this host of the root directory of the lab's programs,
	// if it is not "/".
	view string
	// inCluster is set if the manager runs in a pod; data is then a path in it.
	inCluster bool
	// faulty is set if faults were injected.
	faulty bool
}

// newLab creates a lab's directories. At the end of the test, whatever its result,
// the lab is stopped.
func newLab(t testing.TB) *lab {
	t.Helper()
	// Not t.TempDir: sockets need short paths.
	dir, err := os.MkdirTemp("/tmp", "pxe2e")
	if err != nil {
		t.Fatal(err)
	}
	l := labIn(t, dir)
	t.Cleanup(func() {
		if t.Failed() {
			l.showLogs(t)
		}
		if out, err := l.run(context.Background(), "bin/lab", "down"); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

// step is a subtest of a lab.
type step struct {
	name string
	run  func(*testing.T, *lab)
}

// runSteps runs steps that depend on each other: it ends at the first failure.
func (l *lab) runSteps(t *testing.T, steps []step) {
	t.Helper()
	began := time.Now()
	for _, s := range steps {
		done := t.Run(s.name, func(t *testing.T) {
			s.run(t, l)
			t.Logf("%s since the first step", time.Since(began).Round(time.Second))
		})
		if !done {
			t.FailNow()
		}
	}
}

// labIn returns a lab with its directories in dir.
func labIn(t testing.TB, dir string) *lab {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{root: root, data: filepath.Join(dir, "data"), runtime: filepath.Join(dir, "run"), namespace: "default"}
	l.kubeconfig = filepath.Join(l.data, "controlplane", "kubeconfig")
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KUBECONFIG=") {
			l.env = append(l.env, kv)
		}
	}
	l.env = append(l.env, "PXELAB_DATA_DIR="+l.data, "PXELAB_RUNTIME_DIR="+l.runtime,
		"PXELAB_ARTIFACT_ALLOW_CIDR=127.0.0.0/8") // the tests' file servers
	return l
}

// up starts the lab with the given arguments and connects to it.
func (l *lab) up(t testing.TB, args ...string) {
	t.Helper()
	cmd := l.command(t.Context(), "bin/lab", append([]string{"up"}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("lab up: %v", err)
	}
	l.connect(t)
}

// connect creates a client of the lab's control plane.
func (l *lab) connect(t testing.TB) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	log.SetLogger(logr.Discard())
	if l.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(l.root, program), args...)
	cmd.Dir, cmd.Env = l.root, append(l.env, "KUBECONFIG="+l.kubeconfig)
	if program == "bin/lab" {
		cmd.Env = l.env
	}
	return cmd
}

func (l *lab) run(ctx context.Context, program string, args ...string) (string, error) {
	return l.output(l.command(ctx, program, args...))
}

// output runs a command, by default in the checkout and with the lab's
// environment, and returns its combined output.
func (l *lab) output(cmd *exec.Cmd) (string, error) {
	if cmd.Env == nil {
		cmd.Dir, cmd.Env = l.root, l.env
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// ssh runs a command on a target through kubectl-lab and returns its output.
func (l *lab) ssh(t testing.TB, target, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := l.command(ctx, "bin/kubectl-lab", "ssh", target, "--", command)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("running %[2]q on %[1]s: %[3]v\n%[4]s%[5]s", target, command, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// sshEach runs commands on a target in one session, because a session takes
// seconds on an emulated guest, and returns the output of each.
func (l *lab) sshEach(t testing.TB, target string, commands ...string) []string {
	t.Helper()
	const next = "---- next"
	outputs := strings.Split(l.ssh(t, target, "set -e; "+strings.Join(commands, "; echo '"+next+"'; ")), next)
	if len(outputs) != len(commands) {
		t.Fatalf("%s: got %d outputs of %d commands: %q", target, len(outputs), len(commands), outputs)
	}
	for i := range outputs {
		outputs[i] = strings.TrimSpace(outputs[i])
	}
	return outputs
}

func (l *lab) target(t testing.TB, name string) *v1alpha1.BareMetalTarget {
	t.Helper()
	target := &v1alpha1.BareMetalTarget{}
	if err := l.client.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: name}, target); err != nil {
		t.Fatal(err)
	}
	return target
}

// update changes a target's spec.
func (l *lab) update(t testing.TB, name string, change func(*v1alpha1.BareMetalTargetSpec)) {
	t.Helper()
	target := l.target(t, name)
	base := target.DeepCopy()
	change(&target.Spec)
	if err := l.client.Patch(t.Context(), target, client.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
}

// await polls a target until it satisfies ok.
func (l *lab) await(t testing.TB, name, what string, ok func(*v1alpha1.BareMetalTarget) bool) *v1alpha1.BareMetalTarget {
	t.Helper()
	deadline := time.Now().Add(guestLimit)
	for {
		target := l.target(t, name)
		if ok(target) {
			return target
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not become %s within %s: phase %s, %s\n%s", name, what, guestLimit,
				target.Status.Phase, target.Status.Message, conditionsText(target))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (l *lab) awaitPhase(t testing.TB, name string, phase v1alpha1.TargetPhase) *v1alpha1.BareMetalTarget {
	t.Helper()
	return l.await(t, name, string(phase), func(o *v1alpha1.BareMetalTarget) bool { return o.Status.Phase == phase })
}

func conditionsText(bmt *v1alpha1.BareMetalTarget) string {
	var b strings.Builder
	for _, c := range bmt.Status.Conditions {
		fmt.Fprintf(&b, "  %s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	return b.String()
}

// showLogs logs the ends of all logs of a failed lab.
func (l *lab) showLogs(t testing.TB) {
	var files []string
	for _, pattern := range []string{"logs/*.log", "machines/*/serial.log", "machines/*/qemu.log"} {
		found, _ := filepath.Glob(filepath.Join(l.data, pattern))
		files = append(files, found...)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if len(raw) > 6000 {
			raw = raw[len(raw)-6000:]
		}
		t.Logf("---- end of %s\n%s", file, bytes.ToValidUTF8(raw, []byte("?")))
	}
}
