// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

func simulatedTarget() *v1alpha1.BareMetalTarget {
	rate, attempts, percent := resource.MustParse("1G"), int32(2), int32(25)
	t := &v1alpha1.BareMetalTarget{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b"}}
	t.Spec.Machine = v1alpha1.TargetMachine{
		Machine: v1alpha1.Machine{CPUs: 1, Memory: resource.MustParse("1Gi")}, Architecture: v1alpha1.ArchitectureX86_64,
		Runner: v1alpha1.RunnerSimulated, Disks: []v1alpha1.Disk{{Name: "disk0", Size: resource.MustParse("1Gi")}},
		Simulation: &v1alpha1.Simulation{
			LinkRate: &rate, FirmwareDelay: &metav1.Duration{Duration: time.Second}, BootDelay: &metav1.Duration{Duration: time.Minute},
			Faults: []v1alpha1.SimulatedFault{
				{Type: v1alpha1.SimulatedFaultNoSSH},
				{Type: v1alpha1.SimulatedFaultTFTPAbort, Attempts: &attempts, Probability: &percent},
			},
		},
	}
	return t
}

func TestSimulatedMachine(t *testing.T) {
	target := simulatedTarget()
	o := TargetMachineOptions{
		MAC: "52:54:00:aa:00:01", Dir: "/machines/a", Netboot: true,
		Lab: machine.Backend{Dgram: &machine.Dgram{Local: "/run/net", Remote: "/run/sw"}},
	}
	m := TargetMachine(target, o)
	want := &machine.Simulation{
		LinkRate: 1e9, FirmwareDelay: time.Second, BootDelay: time.Minute,
		Faults: []machine.SimulatedFault{{Type: "NoSSH", Probability: 1}, {Type: "TFTPAbort", Attempts: 2, Probability: 0.25}},
	}
	if diff := cmp.Diff(want, m.Simulation); diff != "" || m.Kind != machine.KindSimulated {
		t.Errorf("got kind %q, simulation (-want +got):\n%s", m.Kind, diff)
	}
	if err := m.Validate(); err != nil {
		t.Errorf("got error %v, want a valid machine", err)
	}
	target.Spec.Machine.Simulation.BootDelay = nil
	if TargetMachine(target, o).Digest() == m.Digest() {
		t.Error("got the same digest after a change of the simulation, want another one")
	}
	target.Spec.Machine.Simulation = nil
	if m := TargetMachine(target, o); m.Kind != machine.KindSimulated || m.Simulation != nil {
		t.Errorf("without a simulation: got kind %q and %+v, want the default simulation", m.Kind, m.Simulation)
	}
	target.Spec.Machine.Runner = v1alpha1.RunnerQEMU
	if m := TargetMachine(target, o); m.Kind != machine.KindQEMU {
		t.Errorf("runner QEMU: got kind %q, want %q", m.Kind, machine.KindQEMU)
	}
}

func TestCheckRunner(t *testing.T) {
	target := simulatedTarget()
	if err := CheckRunner(target, Network{Mode: v1alpha1.NetworkUserspace}); err != nil {
		t.Errorf("mode Userspace: got error %v, want none", err)
	}
	for _, mode := range []v1alpha1.NetworkMode{v1alpha1.NetworkBridge, v1alpha1.NetworkVMNetHost, v1alpha1.NetworkVMNetShared} {
		if err := CheckRunner(target, Network{Mode: mode}); err == nil || !strings.Contains(err.Message, "spec.machine.runner") {
			t.Errorf("mode %s: got error %v, want one that names the field", mode, err)
		}
	}
	target.Spec.Machine.Runner = v1alpha1.RunnerQEMU
	if err := CheckRunner(target, Network{Mode: v1alpha1.NetworkBridge}); err != nil {
		t.Errorf("runner QEMU: got error %v, want none", err)
	}
}

func TestConsolesOf(t *testing.T) {
	target := simulatedTarget()
	p := machine.NewPaths("/data", "/run", string(target.UID))
	if got := ConsolesOf(target, p); got.VNCSocket != "" || got.SerialLog != p.SerialLog || got.SerialSocket != p.Serial {
		t.Errorf("simulated: got %+v, want only the serial console", got)
	}
	target.Spec.Machine.Runner = v1alpha1.RunnerQEMU
	if got := ConsolesOf(target, p); got.VNCSocket != p.VNC {
		t.Errorf("QEMU: got %+v, want the screen %s", got, p.VNC)
	}
}

// TestSimulationIsNotRead ensures that nothing but the description of the machine
// depends on the simulation: the state of a target and its explanation come from what
// was observed.
func TestSimulationIsNotRead(t *testing.T) {
	for _, root := range []string{".", "../../controllers", "../../cmd", "../access", "../netbootd", "../netbootapi", "../bootconfig", "../seriallog"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") ||
				root == "." && path == "simulation.go" {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				field, ok := n.(*ast.SelectorExpr)
				// TargetMachine writes the field of the machine's description.
				if ok && field.Sel.Name == "Simulation" && path != "machine.go" {
					t.Errorf("%s reads the simulation, which only simulation.go may", files.Position(n.Pos()))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
