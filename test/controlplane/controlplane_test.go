// SPDX-License-Identifier: Apache-2.0

// Package controlplane_test tests the binary that build.sh builds: as the embedded
// control plane, with kubectl and a client of the main module's version, and as the
// three programs that envtest starts. It builds the binary if it is not in the
// cache.
package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// limit bounds every wait; a successful run on a busy host stays far below it.
const limit = 5 * time.Minute

// bin is the output directory of build.sh.
var bin string

// port is the port of every instance's first start, which later starts use again.
// It differs from a lab's port, which a restarted lab must find free.
var port = freePort()

// freePort returns a port that is not in use, below the range of ephemeral ports
// (net.ipv4.ip_local_port_range).
func freePort() string {
	for {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "controlplane-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("../../cmd/controlplane/build.sh", dir)
	build.Stdout = os.Stderr
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the control plane:", err)
		return 1
	}
	bin = dir
	log.SetLogger(logr.Discard())
	return m.Run()
}

// instance is a running "controlplane serve".
type instance struct {
	cmd        *exec.Cmd
	kubeconfig string
	output     *bytes.Buffer // valid after exited
	exited     chan struct{}
	err        error // valid after exited
}

// start runs serve on dir and waits until the kubeconfig exists.
func start(t *testing.T, dir string) *instance {
	t.Helper()
	began := time.Now()
	// serve removes an old kubeconfig itself, but only some time after its start,
	// and the wait below is for the new one.
	if err := os.RemoveAll(filepath.Join(dir, "kube")); err != nil {
		t.Fatal(err)
	}
	i := launch(t, dir)
	wait(t, "the kubeconfig", func() bool {
		select {
		case <-i.exited:
			t.Fatalf("got an exit of serve with error %v, want it to run\n%s", i.err, i.output)
		default:
		}
		_, err := os.Stat(i.kubeconfig)
		return err == nil
	})
	t.Logf("ready after %s, %s", time.Since(began).Round(time.Millisecond), rss(i.cmd.Process.Pid))
	return i
}

func launch(t *testing.T, dir string) *instance {
	t.Helper()
	i := &instance{kubeconfig: filepath.Join(dir, "kube", "config"), output: &bytes.Buffer{}, exited: make(chan struct{})}
	args := []string{"serve", "--data-dir", filepath.Join(dir, "data"), "--kubeconfig", i.kubeconfig}
	if _, err := os.Stat(filepath.Join(dir, "data", "port")); err != nil {
		args = append(args, "--port", port)
	}
	i.cmd = exec.Command(filepath.Join(bin, "controlplane"), args...)
	i.cmd.Stdout = i.output
	i.cmd.Stderr = i.output
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(i.exited)
		i.err = i.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = i.cmd.Process.Kill()
		<-i.exited
		if t.Failed() {
			t.Logf("serve printed:\n%s", i.output)
		}
	})
	return i
}

// stop sends sig and returns the error of the exited process.
func (i *instance) stop(t *testing.T, sig syscall.Signal) error {
	t.Helper()
	began := time.Now()
	if err := i.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-i.exited:
	case <-time.After(limit):
		t.Fatalf("%s after %v: got a serve that runs, want it to exit", limit, sig)
	}
	t.Logf("exited %s after %v", time.Since(began).Round(time.Millisecond), sig)
	return i.err
}

func (i *instance) client(t *testing.T) client.WithWatch {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// kubectl runs the kubectl applet by its link.
func (i *instance) kubectl(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "envtest", "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+i.kubeconfig, "HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (i *instance) mustKubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := i.kubectl(t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// wait blocks until cond is true.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("after %s: got a timeout, want %s", limit, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rss returns the resident memory on Linux, for the log.
func rss(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "memory unknown"
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); name == "VmRSS" {
			return "RSS " + strings.TrimSpace(value)
		}
	}
	return "memory unknown"
}

func exitCode(err error) int {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// commandIn runs the binary by its own name in dir, and waits until it exits.
func commandIn(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "controlplane"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}
