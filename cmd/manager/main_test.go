// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// beManager has the test binary be the manager.
const beManager = "PXELAB_TEST_BE_MANAGER"

func TestMain(m *testing.M) {
	if os.Getenv(beManager) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// limit is how long anything may take before a test calls it broken.
const limit = 2 * time.Minute

// running is a manager as a process of its own.
type running struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan error
	socket string
}

func startManager(t *testing.T, kubeconfig, data, runtime string) *running {
	t.Helper()
	r := &running{output: &bytes.Buffer{}, ended: make(chan error, 1), socket: paths.Dirs{Runtime: runtime}.ManagerSocket()}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(me, "--kubeconfig", kubeconfig, "--data-dir", data, "--runtime-dir", runtime, "--images-dir", t.TempDir())
	r.cmd.Env = append(os.Environ(), beManager+"=1", paths.EnvCache+"="+t.TempDir())
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() { r.end(syscall.SIGKILL) })
	return r
}

// end ends it with a signal and waits for that.
func (r *running) end(sig syscall.Signal) {
	_ = r.cmd.Process.Signal(sig)
	err := <-r.ended
	r.ended <- err
}

// untilUp waits until people can talk to it.
func (r *running) untilUp(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", r.socket); err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-tick.C:
		case err := <-r.ended:
			r.ended <- err
			t.Fatalf("the manager ended with %v\n%s", err, r.output)
		case <-ctx.Done():
			r.end(syscall.SIGKILL)
			t.Fatalf("the manager does not come up\n%s", r.output)
		}
	}
}

// refuses waits for its end and looks for words in what it said.
func (r *running) refuses(t *testing.T, words ...string) {
	t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		if err == nil {
			t.Error("it ended as if all were well")
		}
	case <-time.After(limit):
		r.end(syscall.SIGKILL)
		t.Fatalf("it does not end\n%s", r.output)
	}
	for _, w := range words {
		if !strings.Contains(r.output.String(), w) {
			t.Errorf("%q is missing in\n%s", w, r.output)
		}
	}
}

// TestOneManager starts managers where there is one already.
func TestOneManager(t *testing.T) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join("..", "..", "bin", "envtest")
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: limit, ControlPlaneStopTimeout: limit,
		CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
	}
	if _, err := env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	data, sockets := t.TempDir(), pathstest.Short(t)
	first := startManager(t, kubeconfig, data, sockets)
	first.untilUp(t)

	pid := strconv.Itoa(first.cmd.Process.Pid)
	startManager(t, kubeconfig, data, pathstest.Short(t)).refuses(t, "another manager", "process "+pid, data)

	other, otherSockets := t.TempDir(), pathstest.Short(t)
	startManager(t, kubeconfig, other, otherSockets).refuses(t, "managed from another data directory", data, "runs (heard")

	// Killed, it leaves a claim that the next one on the same directory takes up
	// at once, and nobody else.
	first.end(syscall.SIGKILL)
	startManager(t, kubeconfig, other, otherSockets).refuses(t, "managed from another data directory", data)
	again := startManager(t, kubeconfig, data, sockets)
	again.untilUp(t)
	again.end(syscall.SIGTERM)
	if !again.cmd.ProcessState.Success() {
		t.Errorf("ended with %v\n%s", again.cmd.ProcessState, again.output)
	}
}
