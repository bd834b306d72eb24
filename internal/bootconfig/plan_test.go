// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"net/netip"
	"testing"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// The installer gets what the entry has about disks.
func TestInstallPlanHasDisks(t *testing.T) {
	n := &netbootapi.Network{Address: netip.MustParsePrefix("10.0.0.1/24"), NAT: true, MTU: 1500}
	m := &netbootapi.Machine{
		Content: netbootapi.Content{
			Name: "a", Hostname: "a", MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"), Architecture: "x86_64",
			RootDisk: netbootapi.RootDisk{Serial: "S1", MinSize: 7}, Root: netbootapi.RootPartition{Label: "root"},
			Cleaning: installerapi.CleanFull,
		},
		Control: netbootapi.Control{Token: "token-0123456789abcdef", Attempt: "a1"},
	}
	plan, err := Renderer{Port: 80}.InstallPlan(t.Context(), Input{Network: n, Machine: m})
	if err != nil {
		t.Fatal(err)
	}
	if plan.RootDisk != m.RootDisk || plan.Root != m.Root || plan.Cleaning != m.Cleaning {
		t.Errorf("got plan %+v, want disk %+v, root %+v and cleaning %s", plan, m.RootDisk, m.Root, m.Cleaning)
	}
}
