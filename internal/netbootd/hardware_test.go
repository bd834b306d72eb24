// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// The first inventory of an attempt is kept, and warnings come with the last report.
func TestProgressHasHardwareAndWarnings(t *testing.T) {
	s := netbootapi.MachineState{Attempt: "1", ProfileDigest: "sha256:1", ImageAt: time.Unix(1, 0)}
	report := func(p installerapi.Progress) {
		t.Helper()
		p.Attempt = "1"
		if err := sawProgress(&s, p, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	h := &installerapi.Hardware{
		CPUs: 2, Memory: 1 << 30, Firmware: "UEFI", Disks: []installerapi.HardwareDisk{{Name: "vda", Size: 5}},
		NICs: []installerapi.HardwareNIC{{Name: "eth0", MAC: "52:54:00:12:34:56"}},
	}
	report(installerapi.Progress{Stage: installerapi.StageStart, Waiting: "waiting for disks"})
	if s.Hardware != nil || s.Install.Waiting != "waiting for disks" {
		t.Errorf("before the inventory: got %+v and %+v, want none, and the reason of the wait", s.Hardware, s.Install)
	}
	report(installerapi.Progress{Stage: installerapi.StageClean, Hardware: h})
	report(installerapi.Progress{Stage: installerapi.StageWrite, Hardware: &installerapi.Hardware{CPUs: 99}})
	if diff := cmp.Diff(h, s.Hardware); diff != "" {
		t.Errorf("hardware (-want +got):\n%s", diff)
	}
	report(installerapi.Progress{Stage: installerapi.StageWrite, Warnings: []string{"early"}})
	if s.Install.Waiting != "" || s.Install.Warnings != nil {
		t.Errorf("while the image is written: got %+v, want no warnings and no wait", s.Install)
	}
	report(installerapi.Progress{Stage: installerapi.StageDone, BytesWritten: 1, BytesTotal: 1, Warnings: []string{"not grown"}})
	if diff := cmp.Diff([]string{"not grown"}, s.Install.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// What a hostile machine reports stays within the limits of its state.
func TestReportsAreBounded(t *testing.T) {
	long := strings.Repeat("\x00<", 10_000)
	h := &installerapi.Hardware{
		CPUs: -1, Memory: -1, Firmware: long,
		Disks: slices.Repeat([]installerapi.HardwareDisk{{Name: long, Size: -1, Model: long, Serial: long}}, 1000),
		NICs:  slices.Repeat([]installerapi.HardwareNIC{{Name: long, MAC: long}}, 1000),
	}
	s := netbootapi.MachineState{Attempt: "1", ProfileDigest: "sha256:1", ImageAt: time.Unix(1, 0)}
	p := installerapi.Progress{
		Attempt: "1", Stage: installerapi.StageDone, BytesWritten: 1, BytesTotal: 1, Hardware: h, Waiting: long, Warnings: slices.Repeat([]string{long}, 1000),
	}
	if err := sawProgress(&s, p, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if limit := netbootapi.MaxMachineBytes / 2; len(encoded) > limit {
		t.Errorf("got a state of %d bytes, want at most %d", len(encoded), limit)
	}
	if s.Hardware.CPUs != 0 || s.Hardware.Memory != 0 || s.Hardware.Firmware != "" || s.Hardware.Disks[0].Size != 0 {
		t.Errorf("got %d CPUs, %d bytes, firmware %q, want none", s.Hardware.CPUs, s.Hardware.Memory, s.Hardware.Firmware)
	}
	if h.Disks[0].Name != long {
		t.Error("the report was changed, want a copy")
	}
}
