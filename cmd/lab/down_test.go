// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

// printed returns what the lab's commands have printed.
func (l *lab) printed(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.bin, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (l *lab) checkPrinted(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := l.printed(t); !strings.Contains(got, w) {
			t.Errorf("got output\n%swant it to contain %q", got, w)
		}
	}
}

// running starts machines, the IDs of which are UUIDs that end in the given digits.
func runningMachines(t *testing.T, digits ...string) *qemutest.Fake {
	t.Helper()
	f := qemutest.NewFake(func(id string) machine.Paths { return machine.NewPaths("/data", "/run", id) })
	for _, d := range digits {
		m := machine.Machine{
			ID: uidOf(d), Name: "default/" + d, Architecture: machine.X8664, CPUs: 1, MemoryMiB: 256,
		}
		if err := f.Start(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func uidOf(digit string) string { return "00000000-0000-4000-8000-00000000000" + digit }

// stubborn is a Runner that cannot stop one machine.
type stubborn struct {
	*qemutest.Fake
	id string
}

func (s *stubborn) Stop(ctx context.Context, id string, o machine.StopOptions) (machine.StopMethod, error) {
	if id == s.id {
		return "", errors.New("process 42 did not end after SIGKILL")
	}
	return s.Fake.Stop(ctx, id, o)
}

func TestStopMachinesReportsEachMachine(t *testing.T) {
	l := testLab(t)
	f := runningMachines(t, "1", "2", "3", "4")
	f.IgnorePowerButton(uidOf("2"))
	f.Hang(uidOf("3"))
	err := l.stopMachines(t.Context(), &stubborn{f, uidOf("4")})
	if err == nil || !strings.Contains(err.Error(), "default/4") || !strings.Contains(err.Error(), "process 42") {
		t.Errorf("got error %v, want one with the machine that still runs and its process", err)
	}
	l.checkPrinted(t, "default/1 is off: its guest shut down", "default/2 is off: switched off", "default/3 is off: killed",
		"3 of 4 machines are off, 1 without a shutdown of the guest, 1 killed")
	if got := l.printed(t); strings.Contains(got, "default/4 is off") {
		t.Errorf("got output\n%swant nothing about the end of default/4", got)
	}
}

// TestDownWithoutCluster stops what runs although the objects cannot be reached.
func TestDownWithoutCluster(t *testing.T) {
	dead := process.Identity{PID: 1, Start: 1, Boot: "before"}
	for name, c := range map[string]struct {
		prepare func(*testing.T, *lab)
		want    string
	}{
		"control plane has exited": {func(t *testing.T, l *lab) {
			l.writeRecord(t, controlPlane, &record{Identity: dead, Log: "/logs/controlplane.log"})
		}, "the control plane has exited; see /logs/controlplane.log"},
		"kubeconfig is missing": {func(t *testing.T, l *lab) {
			if _, err := l.ensureProgram(t.Context(), controlPlane, script(t, l, "exec sleep 600\n"), nil); err != nil {
				t.Fatal(err)
			}
		}, "the kubeconfig cannot be read"},
		"unknown cluster": {func(t *testing.T, l *lab) {
			l.writeRecord(t, manager, &record{Identity: dead, Args: []string{"--data-dir", l.dirs.Data}})
		}, "set KUBECONFIG"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", "")
			l := testLab(t)
			c.prepare(t, l)
			if err := l.down(t.Context()); err != nil {
				t.Errorf("got error %v, want none: everything is stopped", err)
			}
			l.checkPrinted(t, "the objects keep their status, which the next manager replaces: ", c.want, "the lab is stopped")
			if left, err := os.ReadDir(l.dirs.Records()); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() != "lab.lock" }) {
				t.Errorf("got records %v, error %v, want none", left, err)
			}
			// Nothing is left to record the second time.
			before := strings.Count(l.printed(t), "the objects keep their status")
			if err := l.down(t.Context()); err != nil {
				t.Errorf("second down: got error %v, want none", err)
			}
			if got := strings.Count(l.printed(t), "the objects keep their status"); got != before {
				t.Errorf("second down: got output\n%swant nothing about objects", l.printed(t))
			}
		})
	}
}

// A record that cannot be read does not keep the rest from being stopped.
func TestDownContinuesAfterDamagedRecord(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	l := testLab(t)
	r, err := l.ensureProgram(t.Context(), controlPlane, script(t, l, "exec sleep 600\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.recordPath(manager), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = l.down(t.Context())
	if err == nil || !strings.Contains(err.Error(), "not completely stopped") || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("got error %v, want the record of the manager", err)
	}
	if process.Alive(r.Identity) {
		t.Error("the control plane still runs, want it stopped")
	}
}

// A manager that another program has started keeps its control plane.
func TestDownLeavesControlPlaneOfForeignManager(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	l := testLab(t)
	r, err := l.ensureProgram(t.Context(), controlPlane, script(t, l, "exec sleep 600\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminate(context.Background(), r.Identity, time.Minute) })
	held, err := ownership.AcquireDirectory(l.dirs.Data)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.down(t.Context()); !errors.Is(err, ownership.ErrInUse) || !strings.Contains(err.Error(), "left running") {
		t.Errorf("got error %v, want that a manager uses the machines", err)
	}
	assertAlive(t, r)
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestRecordIn(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := errors.Join(coordinationv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	l := testLab(t)
	d := &ownership.Directory{ID: "mine", Location: "host:/data"}
	ready := v1alpha1.BareMetalTargetStatus{Phase: v1alpha1.TargetReady}
	target := &v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "1", UID: types.UID(uidOf("1"))}, Status: ready}
	runs := &v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "2", UID: types.UID(uidOf("2"))}, Status: ready}
	f := runningMachines(t, "1", "2")
	if _, err := f.Stop(t.Context(), uidOf("1"), machine.StopOptions{ACPITimeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	for holder, owns := range map[string]bool{"mine": true, "another": false} {
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: ownership.DefaultNamespace, Name: ownership.LeaseName},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder},
		}
		c := &cluster{config: &rest.Config{Host: "https://cluster"}, client: fake.NewClientBuilder().WithScheme(scheme).
			WithStatusSubresource(target, &v1alpha1.ProvisioningServer{}).WithObjects(target.DeepCopy(), runs.DeepCopy(), lease).Build()}
		result, err := l.recordIn(t.Context(), c, d, f)
		now := &v1alpha1.BareMetalTarget{}
		if err := c.client.Get(t.Context(), client.ObjectKeyFromObject(target), now); err != nil {
			t.Fatal(err)
		}
		if !owns {
			if err == nil || !strings.Contains(err.Error(), "https://cluster is not managed from") || now.Status.Phase != v1alpha1.TargetReady {
				t.Errorf("cluster of another lab: got error %v, phase %s, want it left alone", err, now.Status.Phase)
			}
			continue
		}
		if err != nil || result.Stopped != 1 || !slices.Equal(result.Running, []string{"BareMetalTarget default/2"}) {
			t.Errorf("got %+v, error %v, want one object recorded and one that runs", result, err)
		}
		if now.Status.Phase != v1alpha1.TargetStopped {
			t.Errorf("got phase %s, want Stopped", now.Status.Phase)
		}
	}
}
