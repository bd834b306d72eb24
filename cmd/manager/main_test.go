// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/api/meta"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// beManager makes the test binary run as the manager.
const beManager = "PXELAB_TEST_BE_MANAGER"

func TestMain(m *testing.M) {
	if os.Getenv(beManager) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// limit is how long any step may take before a test fails.
const limit = 2 * time.Minute

// running is a manager in a separate process.
type running struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan error
	socket string
}

func startManager(t *testing.T, kubeconfig, data, runtime string, flags ...string) *running {
	t.Helper()
	r := &running{output: &bytes.Buffer{}, ended: make(chan error, 1), socket: paths.Dirs{Runtime: runtime}.ManagerSocket()}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(me, append([]string{
		"--kubeconfig", kubeconfig, "--data-dir", data, "--runtime-dir", runtime, "--images-dir", t.TempDir(),
	}, flags...)...)
	r.cmd.Env = append(os.Environ(), beManager+"=1", paths.EnvCache+"="+t.TempDir())
	r.cmd.Stdout = r.output
	r.cmd.Stderr = r.output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() { r.end(syscall.SIGKILL) })
	return r
}

// end sends the manager a signal and waits until it has exited.
func (r *running) end(sig syscall.Signal) {
	_ = r.cmd.Process.Signal(sig)
	err := <-r.ended
	r.ended <- err
}

// untilUp waits until the manager accepts connections on its socket.
func (r *running) untilUp(t *testing.T) {
	t.Helper()
	r.until(t, "the manager accepts connections", func(context.Context) bool {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// until waits for a condition while the manager runs.
func (r *running) until(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-tick.C:
		case err := <-r.ended:
			r.ended <- err
			t.Fatalf("the manager exited with %v, want it to keep running\n%s", err, r.output)
		case <-ctx.Done():
			r.end(syscall.SIGKILL)
			t.Fatalf("timed out waiting until %s\n%s", what, r.output)
		}
	}
}

// freeAddress returns an address of the loopback network that is free at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// serves waits until a page of the manager contains words.
func (r *running) serves(t *testing.T, url string, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	page := ""
	lacks := func(word string) bool { return !strings.Contains(page, word) }
	for {
		if page = fetch(ctx, url); !slices.ContainsFunc(words, lacks) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.end(syscall.SIGKILL)
			t.Fatalf("%s: got %s, want a page with %q\n%s", url, page, words, r.output)
		}
	}
}

// fetch returns a page, or why there is none.
func fetch(ctx context.Context, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(page)
}

// refuses checks that the manager exits with an error whose text contains words.
func (r *running) refuses(t *testing.T, words ...string) {
	t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		if err == nil {
			t.Error("got exit status 0, want an error")
		}
	case <-time.After(limit):
		r.end(syscall.SIGKILL)
		t.Fatalf("got a manager that runs after a signal, want it to exit\n%s", r.output)
	}
	for _, w := range words {
		if !strings.Contains(r.output.String(), w) {
			t.Errorf("got output %s, want it to contain %q", r.output, w)
		}
	}
}

// TestRefusesSecondManager starts managers on a data directory and a cluster that
// already have one.
func TestRefusesSecondManager(t *testing.T) {
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
	probes, metrics := freeAddress(t), freeAddress(t)
	first := startManager(t, kubeconfig, data, sockets, "--health-probe-bind-address", probes, "--metrics-bind-address", metrics)
	first.untilUp(t)
	first.serves(t, "http://"+probes+"/healthz", "ok")
	first.serves(t, "http://"+probes+"/readyz?verbose", "[+]caches ok", "[+]adoption ok", "[+]reconciles ok")
	first.serves(t, "http://"+metrics+"/metrics", "pxelab_artifact_store_files 0", "pxelab_machine_observations_total 0",
		`pxelab_api_writes_total{resource="leases",subresource="",verb="create"} 1`, "controller_runtime_reconcile_total")

	pid := strconv.Itoa(first.cmd.Process.Pid)
	startManager(t, kubeconfig, data, pathstest.Short(t)).refuses(t, "another manager", "process "+pid, data)

	other, otherSockets := t.TempDir(), pathstest.Short(t)
	startManager(t, kubeconfig, other, otherSockets).refuses(t, "managed from another data directory", data, "is running (lease renewed")

	// A killed manager leaves a lease. The next manager on the same data directory
	// takes it over at once; those on other directories are refused.
	first.end(syscall.SIGKILL)
	startManager(t, kubeconfig, other, otherSockets).refuses(t, "managed from another data directory", data)
	again := startManager(t, kubeconfig, data, sockets, "--stop-machines")
	again.untilUp(t)
	checkRecordsStop(t, env.Config, again)
}

// checkRecordsStop checks that a manager that stops its machines records that they are off
// when it ends, and that it lists what it has observed.
func checkRecordsStop(t *testing.T, config *rest.Config, r *running) {
	t.Helper()
	scheme := apiruntime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget("default")
	if err := c.Create(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	r.until(t, "the target is observed", func(ctx context.Context) bool {
		if err := c.Get(ctx, client.ObjectKeyFromObject(target), target); err != nil {
			t.Fatal(err)
		}
		left, err := access.NewSocketClient(r.socket).Unobserved(ctx)
		return err == nil && len(left) == 0 && target.Status.Phase == v1alpha1.TargetPending
	})
	r.end(syscall.SIGTERM)
	if !r.cmd.ProcessState.Success() {
		t.Errorf("got exit status %v, want 0\n%s", r.cmd.ProcessState, r.output)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(target), target); err != nil {
		t.Fatal(err)
	}
	ready := meta.FindStatusCondition(target.Status.Conditions, v1alpha1.ConditionReady)
	if target.Status.Phase != v1alpha1.TargetStopped || ready == nil || ready.Reason != v1alpha1.ReasonLabDown {
		t.Errorf("after the end of the manager: got phase %s, condition %+v, want Stopped and LabDown\n%s", target.Status.Phase, ready, r.output)
	}
}

func TestCheckPprof(t *testing.T) {
	for address, want := range map[string]string{
		"":               "",
		"127.0.0.1:6060": "",
		"[::1]:6060":     "",
		"localhost:6060": "",
		":6060":          "not a loopback address",
		"0.0.0.0:6060":   "not a loopback address",
		"10.0.0.1:6060":  "not a loopback address",
		"example:6060":   "not a loopback address",
		"127.0.0.1":      "use HOST:PORT",
	} {
		err := checkPprof(address)
		if want == "" && err != nil {
			t.Errorf("%q: got error %v, want none", address, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got error %v, want one that contains %q", address, err, want)
		}
	}
}
