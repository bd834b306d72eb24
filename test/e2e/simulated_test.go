// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// The simulated targets of a lab into which faults are injected, besides one for each of
// simulatedFaults.
const (
	// calm is healthy and stays Ready.
	calm = "simulated-calm"
	// slow needs some seconds for each phase, so that a fault hits it there.
	slow = "simulated-slow"
)

// The profiles of the simulated targets: the sample, and one with a larger image.
const (
	sampleProfile = "simulated"
	slowProfile   = "simulated-slow"
)

// simulatedTarget returns the simulated target of a name, or nil if it has none.
func simulatedTarget(name string) *unstructured.Unstructured {
	profile := sampleProfile
	spec := map[string]any{}
	machine := map[string]any{
		"runner": string(v1alpha1.RunnerSimulated), "disks": []any{map[string]any{"name": "disk0", "size": "1Gi"}},
	}
	fault := faultOf(name)
	switch {
	case name == calm:
	case name == slow:
		profile = slowProfile
		machine["simulation"] = map[string]any{"linkRate": "8M", "bootDelay": "3s"}
	case fault != "":
		simulation := map[string]any{"faults": []any{map[string]any{"type": string(fault)}}}
		spec["installTimeout"], spec["maxAttempts"] = "1m", int64(1) // the shortest limits
		switch fault {
		case v1alpha1.SimulatedFaultResetLoop:
			simulation["firmwareDelay"] = "20s" // it fetches kernel and initrd each time
		case v1alpha1.SimulatedFaultNoRequest, v1alpha1.SimulatedFaultForeignMAC:
			spec["installTimeout"] = "90s" // the firmware waits for an answer for a minute
		}
		machine["simulation"] = simulation
	default:
		return nil
	}
	spec["machine"] = machine
	spec["provisioningServerRef"] = map[string]any{"name": server}
	spec["bootProfileRef"] = map[string]any{"name": profile}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("BareMetalTarget"))
	o.SetNamespace("default")
	o.SetName(name)
	return o
}

// ensureSimulated creates the simulated targets, except slow, and what they boot.
func (f *faultLab) ensureSimulated(t testing.TB) {
	t.Helper()
	folder := strings.TrimSpace(f.must(t, exec.Command(filepath.Join(f.root, "config/samples/simulated/files.sh"))))
	for _, p := range f.samplesIn(t, "simulated", "bootprofile.yaml") {
		f.ensure(t, p.DeepCopy())
		p.SetName(slowProfile)
		source := map[string]any{
			"path": "simulated/slow.raw", "checksum": slowFile(t, folder), "format": string(v1alpha1.ImageRaw),
		}
		if err := unstructured.SetNestedMap(p.Object, source, "spec", "image", "source"); err != nil {
			t.Fatal(err)
		}
		f.ensure(t, p)
	}
	f.ensure(t, simulatedTarget(calm))
	for _, c := range simulatedFaults {
		f.ensure(t, simulatedTarget(c.target()))
	}
}

// slowFile writes slow.raw, the image of slowProfile, unless it exists, and returns its
// checksum.
func slowFile(t testing.TB, folder string) string {
	t.Helper()
	path := filepath.Join(folder, "slow.raw")
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		content = noise()
		err = os.WriteFile(path+".new", content, 0o600)
		if err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(content))
}

// simulatedTargetsOf returns the simulated targets that exist.
func (l *lab) simulatedTargetsOf(t testing.TB) []v1alpha1.BareMetalTarget {
	t.Helper()
	list := &v1alpha1.BareMetalTargetList{}
	if err := l.client.List(t.Context(), list, client.InNamespace(l.namespace)); err != nil {
		t.Fatal(err)
	}
	var out []v1alpha1.BareMetalTarget
	for _, o := range list.Items {
		if o.Spec.Machine.Runner == v1alpha1.RunnerSimulated {
			out = append(out, o)
		}
	}
	return out
}

// deleteSimulated deletes all simulated targets, in whatever state they are.
func deleteSimulated(t *testing.T, l *lab) {
	all := l.simulatedTargetsOf(t)
	for i := range all {
		if err := l.client.Delete(t.Context(), &all[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range all {
		l.awaitGone(t, &all[i])
		l.nothingLeft(t, string(all[i].UID))
	}
}

// maxSlowdown is how many times as long a virtual target may take beside simulatedCount
// simulated ones.
const (
	maxSlowdown    = 1.3
	simulatedCount = 100
)

// besideSimulated installs a virtual target alone and beside simulated ones that are
// Ready, and compares the times from PXE to Ready.
func besideSimulated(t *testing.T, l *lab) {
	deleteSimulated(t, l)
	alone := l.reinstall(t, first)
	const prefix = "beside-"
	create := l.command(t.Context(), "bin/controlplane", "kubectl", "create", "-f", "-")
	create.Stdin = strings.NewReader(string(simulatedTargets(t, prefix, simulatedCount, sampleProfile)))
	if out, err := l.output(create); err != nil {
		t.Fatalf("kubectl create: %v\n%s", err, out)
	}
	for i := range simulatedCount {
		l.awaitPhase(t, fmt.Sprint(prefix, i), v1alpha1.TargetReady)
	}
	beside := l.reinstall(t, first)
	for _, o := range l.simulatedTargetsOf(t) {
		if o.Status.Phase != v1alpha1.TargetReady {
			t.Errorf("%s: got phase %s, want it Ready", o.Name, o.Status.Phase)
		}
	}
	deleteSimulated(t, l)
	if beside > maxSlowdown*alone {
		// The host may have become slower meanwhile.
		alone = max(alone, l.reinstall(t, first))
	}
	t.Logf("PXE to Ready: %.1f s alone, %.1f s beside %d simulated targets, ratio %.2f, limit %.1f",
		alone, beside, simulatedCount, beside/alone, maxSlowdown)
	if beside > maxSlowdown*alone {
		t.Errorf("beside %d simulated targets: got %.1f s from PXE to Ready, want at most %.1f times the %.1f s alone",
			simulatedCount, beside, maxSlowdown, alone)
	}
}

// reinstall installs a Ready target again, and returns the seconds from PXE to Ready.
func (l *lab) reinstall(t *testing.T, name string) float64 {
	t.Helper()
	generation := l.target(t, name).Spec.InstallGeneration + 1
	l.update(t, name, func(s *v1alpha1.BareMetalTargetSpec) { s.InstallGeneration = generation })
	o := l.await(t, name, "installed again", func(o *v1alpha1.BareMetalTarget) bool {
		return o.Status.Phase == v1alpha1.TargetReady && o.Status.InstalledGeneration == generation
	})
	started := -1
	for i, r := range o.Status.Timeline {
		if r.Phase == v1alpha1.TargetPXE {
			started = i
		}
	}
	last := o.Status.Timeline[len(o.Status.Timeline)-1]
	if started < 0 || last.Phase != v1alpha1.TargetReady {
		t.Fatalf("%s: got timeline %+v, want PXE to Ready at its end", name, o.Status.Timeline)
	}
	return last.StartedAt.Sub(o.Status.Timeline[started].StartedAt.Time).Seconds()
}
