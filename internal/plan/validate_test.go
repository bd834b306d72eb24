// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// reasonOf returns the reason of an *InvalidError; "" for nil.
func reasonOf(err error) string {
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		return invalid.Reason
	}
	return ""
}

func TestValidCondition(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status metav1.ConditionStatus
		reason string
	}{
		"valid":   {nil, metav1.ConditionTrue, v1alpha1.ReasonValid},
		"wrapped": {fmt.Errorf("profile: %w", invalid(v1alpha1.ReasonBadTemplate, "bad")), metav1.ConditionFalse, v1alpha1.ReasonBadTemplate},
		"untyped": {errors.New("bad"), metav1.ConditionFalse, v1alpha1.ReasonInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			got := ValidCondition(c.err)
			if got.Status != c.status {
				t.Errorf("got status %s, want %s", got.Status, c.status)
			}
			if got.Reason != c.reason {
				t.Errorf("got reason %s, want %s", got.Reason, c.reason)
			}
		})
	}
}

func testServer(uid, cidr, disk string, created time.Time) v1alpha1.ProvisioningServer {
	s := v1alpha1.ProvisioningServer{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: uid, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(created),
	}}
	s.Spec.Network.CIDR, s.Spec.Network.Mode, s.Spec.Network.Bridge = cidr, v1alpha1.NetworkBridge, "br0"
	s.Spec.Machine.DiskSize = resource.MustParse(disk)
	return s
}

func TestCheckServer(t *testing.T) {
	type servers = []v1alpha1.ProvisioningServer
	older := epoch.Add(-time.Second)
	const cidr = "10.88.0.0/24"
	for name, c := range map[string]struct {
		disk   string
		others []v1alpha1.ProvisioningServer
		reason string
		text   string
	}{
		"alone":                 {"8Gi", nil, "", ""},
		"disk_too_small":        {"1023Mi", nil, v1alpha1.ReasonInvalid, "at least 1Gi"},
		"older_overlaps":        {"8Gi", servers{testServer("a", "10.88.0.0/16", "8Gi", older)}, v1alpha1.ReasonAddressConflict, "default/a"},
		"younger_overlaps":      {"8Gi", servers{testServer("a", cidr, "8Gi", epoch.Add(time.Second))}, "", ""},
		"same_age_overlaps":     {"8Gi", servers{testServer("a", cidr, "8Gi", epoch)}, v1alpha1.ReasonAddressConflict, "default/a"},
		"older_is_elsewhere":    {"8Gi", servers{testServer("a", "10.89.0.0/24", "8Gi", older)}, "", ""},
		"older_has_no_network":  {"8Gi", servers{testServer("a", "nonsense", "8Gi", older)}, "", ""},
		"it_is_the_same_server": {"8Gi", servers{testServer("b", cidr, "8Gi", epoch)}, "", ""},
		"first_of_two": {
			"8Gi", servers{testServer("c", "10.88.0.0/16", "8Gi", older), testServer("a", cidr, "8Gi", older)},
			v1alpha1.ReasonAddressConflict, "default/a",
		},
		"neighbor": {"8Gi", servers{testServer("a", "10.88.1.0/24", "8Gi", older)}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := testServer("b", cidr, c.disk, epoch)
			err := CheckServer(&s, Network{Prefix: netip.MustParsePrefix(cidr)}, c.others)
			if got := reasonOf(err); got != c.reason {
				t.Errorf("got reason %q, want %q: %v", got, c.reason, err)
			}
			if err != nil {
				checkMessage(t, "error", err.Error(), c.text)
			}
		})
	}
}

// TestCheckServerWidening checks which of two labs keeps its addresses when a network is
// widened to overlap the other.
func TestCheckServerWidening(t *testing.T) {
	const narrow, wide, other = "10.88.0.0/24", "10.88.0.0/20", "10.88.8.0/24"
	older, younger := epoch.Add(-time.Second), epoch.Add(time.Second)
	for name, c := range map[string]struct {
		spec, inForce           string
		otherSpec, otherInForce string
		otherCreated            time.Time
		refused                 bool
	}{
		"into a younger lab":               {wide, narrow, other, other, younger, true},
		"into an older lab":                {wide, narrow, other, other, older, true},
		"into a lab that is not in use":    {wide, narrow, other, "", younger, false},
		"beside another lab":               {wide, narrow, "10.88.16.0/20", "10.88.16.0/20", older, false},
		"another is being widened into it": {other, other, wide, narrow, older, false},
		"new, where another is widened":    {other, "", wide, narrow, older, true},
		"new, where another was widened":   {other, "", wide, wide, younger, true},
		"both in use, the other is older":  {wide, wide, other, other, older, true},
		"both in use, it is older":         {wide, wide, other, other, younger, false},
		"after it was set back":            {narrow, narrow, other, other, older, false},
	} {
		s, o := testServer("b", c.spec, "8Gi", epoch), testServer("a", c.otherSpec, "8Gi", c.otherCreated)
		s.Status.Network.CIDR, o.Status.Network.CIDR = c.inForce, c.otherInForce
		err := CheckServer(&s, Network{Prefix: netip.MustParsePrefix(c.spec)}, []v1alpha1.ProvisioningServer{s, o})
		if refused := reasonOf(err) == v1alpha1.ReasonAddressConflict; refused != c.refused {
			t.Errorf("%s: got error %v, want refused %t", name, err, c.refused)
		}
	}
}

// TestCheckServerOnAnotherWire checks that only networks whose machines can reach each other
// exclude each other.
func TestCheckServerOnAnotherWire(t *testing.T) {
	const cidr = "10.88.0.0/24"
	network := func(mode v1alpha1.NetworkMode, bridge string) v1alpha1.LabNetwork {
		return v1alpha1.LabNetwork{CIDR: cidr, Mode: mode, Bridge: bridge}
	}
	for name, c := range map[string]struct {
		own, other v1alpha1.LabNetwork
		refused    bool
	}{
		"one bridge":         {network(v1alpha1.NetworkBridge, "br0"), network(v1alpha1.NetworkBridge, "br0"), true},
		"two bridges":        {network(v1alpha1.NetworkBridge, "br0"), network(v1alpha1.NetworkBridge, "br1"), false},
		"two switches":       {network(v1alpha1.NetworkUserspace, ""), network(v1alpha1.NetworkUserspace, ""), false},
		"switch and bridge":  {network(v1alpha1.NetworkUserspace, ""), network(v1alpha1.NetworkBridge, "br0"), false},
		"shared by macOS":    {network(v1alpha1.NetworkVMNetShared, ""), network(v1alpha1.NetworkVMNetShared, ""), true},
		"host-only networks": {network(v1alpha1.NetworkVMNetHost, ""), network(v1alpha1.NetworkVMNetHost, ""), false},
	} {
		s, o := testServer("b", cidr, "8Gi", epoch), testServer("a", cidr, "8Gi", epoch.Add(-time.Second))
		s.Spec.Network, o.Spec.Network = c.own, c.other
		err := CheckServer(&s, Network{Prefix: netip.MustParsePrefix(cidr)}, []v1alpha1.ProvisioningServer{s, o})
		if refused := reasonOf(err) == v1alpha1.ReasonAddressConflict; refused != c.refused {
			t.Errorf("%s: got error %v, want refused %t", name, err, c.refused)
		}
	}
}

func TestCheckBridge(t *testing.T) {
	bridged := Network{Mode: v1alpha1.NetworkBridge, Bridge: "br0"}
	for name, c := range map[string]struct {
		network Network
		allowed []string
		refused bool
	}{
		"none allowed":    {bridged, nil, true},
		"another allowed": {bridged, []string{"br1", "br00"}, true},
		"allowed":         {bridged, []string{"br1", "br0"}, false},
		"no bridge":       {Network{Mode: v1alpha1.NetworkUserspace}, nil, false},
	} {
		err := CheckBridge(c.network, c.allowed)
		if refused := reasonOf(err) == v1alpha1.ReasonBridgeNotAllowed; refused != c.refused {
			t.Errorf("%s: got error %v, want refused %t", name, err, c.refused)
		}
	}
}

func TestGenerationNote(t *testing.T) {
	for highest, want := range map[int64]string{
		0: "", 1: "", 2: "",
		5: "spec.installGeneration 2 has no effect, because 5 was reached already; set it to 6 to install again",
	} {
		bmt := &v1alpha1.BareMetalTarget{}
		bmt.Spec.InstallGeneration = 2
		bmt.Status.HighestInstallGeneration = highest
		if got := generationNote(bmt); got != want {
			t.Errorf("2 declared, %d reached: got %q, want %q", highest, got, want)
		}
	}
}

func TestCheckBoot(t *testing.T) {
	for name, c := range map[string]struct {
		image *v1alpha1.ImageBoot
		valid bool
	}{
		"nothing":   {},
		"no kernel": {image: &v1alpha1.ImageBoot{Initrd: &v1alpha1.ArtifactSource{}}},
		"complete":  {image: &v1alpha1.ImageBoot{Kernel: &v1alpha1.ArtifactSource{}, Initrd: &v1alpha1.ArtifactSource{}}, valid: true},
	} {
		p := &v1alpha1.BootProfile{Spec: v1alpha1.BootProfileSpec{Image: c.image}}
		if err := CheckBoot(p); (err == nil) != c.valid {
			t.Errorf("%s: got error %v, want valid %t", name, err, c.valid)
		}
	}
}

func TestCheckProfile(t *testing.T) {
	for name, c := range map[string]struct {
		architecture v1alpha1.Architecture
		content      *Content
		reason       string
	}{
		"fits":               {v1alpha1.ArchitectureX86_64, &Content{DiskBytes: 1 << 30}, ""},
		"not_ready":          {v1alpha1.ArchitectureX86_64, nil, ""},
		"image_too_large":    {v1alpha1.ArchitectureX86_64, &Content{DiskBytes: 1<<30 + 1}, v1alpha1.ReasonImageTooLarge},
		"other_architecture": {v1alpha1.ArchitectureAArch64, &Content{DiskBytes: 1<<30 + 1}, v1alpha1.ReasonArchitectureMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			bmt := &v1alpha1.BareMetalTarget{}
			bmt.Spec.Machine.Architecture = v1alpha1.ArchitectureX86_64
			bmt.Spec.Machine.Disks = []v1alpha1.Disk{{Size: resource.MustParse("1Gi")}}
			profile := &v1alpha1.BootProfile{Spec: v1alpha1.BootProfileSpec{Architecture: c.architecture}}
			got := ""
			if err := CheckProfile(bmt, profile, c.content); err != nil {
				got = err.Reason
			}
			if got != c.reason {
				t.Errorf("got reason %q, want %q", got, c.reason)
			}
		})
	}
}

func TestCheckText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":               {"", ""},
		"utf8":                {"#!/bin/sh\necho café \ufffd\n", ""},
		"latin1":              {"#!/bin/sh\necho caf\xe9 >/etc/x\n", "the key is not valid UTF-8: line 2 has the byte 0xe9; convert the text to UTF-8"},
		"part_of_a_character": {"\n\n\xc3", "line 3 has the byte 0xc3"},
		"surrogate":           {"\xed\xa0\x80", "line 1 has the byte 0xed"},
		"gzip":                {"\x1f\x8b\b\x00", "the key is compressed with gzip; store the text uncompressed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckText("the key", []byte(c.text))
			if c.want == "" && err == nil {
				return
			}
			if err == nil || c.want == "" || err.Reason != v1alpha1.ReasonBadTemplate || !strings.Contains(err.Message, c.want) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

func TestKeptUnfit(t *testing.T) {
	for name, c := range map[string]struct {
		installed int64
		condition Condition
		kept      bool
	}{
		"bad_template":  {1, condition(v1alpha1.ConditionValid, false, v1alpha1.ReasonBadTemplate, "bad"), true},
		"not_installed": {0, condition(v1alpha1.ConditionValid, false, v1alpha1.ReasonBadTemplate, "bad"), false},
		"another":       {1, condition(v1alpha1.ConditionValid, false, v1alpha1.ReasonImageTooLarge, "large"), false},
		"valid":         {1, condition(v1alpha1.ConditionValid, true, v1alpha1.ReasonValid, ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			bmt := &v1alpha1.BareMetalTarget{}
			bmt.Spec.InstallGeneration = 1
			bmt.Status.InstalledGeneration = c.installed
			bmt.Status.Conditions = []metav1.Condition{{
				Type: c.condition.Type, Status: c.condition.Status, Reason: c.condition.Reason, Message: c.condition.Message,
			}}
			want := Blocker{}
			if c.kept {
				want = Blocker{Reason: v1alpha1.ReasonBadTemplate, Message: "bad"}
			}
			if got := KeptUnfit(bmt); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}
