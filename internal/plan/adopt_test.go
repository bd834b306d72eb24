// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

func adopting(source string) *v1alpha1.BareMetalTarget {
	bmt := target("new")
	bmt.Namespace = "default"
	bmt.Spec.Machine.Architecture = "x86_64"
	bmt.Spec.Machine.Runner = v1alpha1.RunnerQEMU
	bmt.Spec.Machine.Disks = []v1alpha1.Disk{
		{Name: "disk0", Size: resource.MustParse("2Gi"), Source: &v1alpha1.DiskSource{Retained: source}},
	}
	return bmt
}

func TestAdoptable(t *testing.T) {
	good := Retained{
		Dir: "/retained/1", Kind: KindTarget, Namespace: "default", Name: "old", UID: "uid-1", Disks: []string{"disk0"}, Sizes: []int64{1 << 30},
		Architecture: "x86_64", Runner: "QEMU", Record: targetdisk.Record{Attempt: targetdisk.Attempt{ID: 1, Generation: 1, Number: 1}},
	}
	with := func(edit func(*Retained)) []Retained {
		r := good
		edit(&r)
		return []Retained{r}
	}
	other := good
	other.UID = "uid-2"
	for name, tt := range map[string]struct {
		source string
		all    []Retained
		user   string
		reason string
		err    string
	}{
		"UID":                  {"uid-1", []Retained{other, good}, "", "", ""},
		"name":                 {"old", []Retained{good}, "", "", ""},
		"UID of several names": {"uid-1", []Retained{good, other}, "", "", ""},
		"name of several": {"old", []Retained{other, good}, "", v1alpha1.ReasonNoRetainedDisks,
			"create the target again with one of their UIDs as source.retained: uid-1, uid-2"},
		"none":   {"uid-3", []Retained{good}, "", v1alpha1.ReasonNoRetainedDisks, "no retained disks of a deleted target uid-3 in namespace default"},
		"in use": {"uid-3", nil, "old", v1alpha1.ReasonRetainedDisksInUse, "existing target old"},
		"another namespace": {"uid-1", with(func(r *Retained) { r.Namespace = "other" }), "", v1alpha1.ReasonNoRetainedDisks,
			"no retained disks of a deleted target uid-1 in namespace default"},
		"a server": {"uid-1", with(func(r *Retained) { r.Kind = KindServer }), "", v1alpha1.ReasonNoRetainedDisks, "no retained disks"},
		"larger": {"uid-1", with(func(r *Retained) { r.Sizes = []int64{2<<30 + 512} }), "", v1alpha1.ReasonRetainedDisksMismatch,
			"disk disk0 has 2147484160 bytes, more than its declared size of 2147483648"},
		"of the same size": {"uid-1", with(func(r *Retained) { r.Sizes = []int64{2 << 30} }), "", "", ""},
		"missing":          {"uid-1", with(func(r *Retained) { r.Sizes = []int64{-1} }), "", v1alpha1.ReasonRetainedDisksMismatch, "the file of disk disk0 is missing"},
		"other disks": {"uid-1", with(func(r *Retained) {
			r.Disks = []string{"disk0", "data"}
			r.Sizes = []int64{1, 1}
		}), "", v1alpha1.ReasonRetainedDisksMismatch, "they are disk0, data, and spec.machine.disks are disk0"},
		"architecture": {"uid-1", with(func(r *Retained) { r.Architecture = "aarch64" }), "", v1alpha1.ReasonRetainedDisksMismatch, "architecture aarch64"},
		"runner":       {"uid-1", with(func(r *Retained) { r.Runner = "Simulated" }), "", v1alpha1.ReasonRetainedDisksMismatch, "runner Simulated"},
		"no record": {"uid-1", with(func(r *Retained) { r.Record = targetdisk.Record{} }), "", v1alpha1.ReasonRetainedDisksMismatch,
			"not recorded what they hold"},
		"names are not recorded": {"uid-1", with(func(r *Retained) { r.Disks = nil }), "", v1alpha1.ReasonRetainedDisksMismatch, "names are not recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Adoptable(adopting(tt.source), tt.all, tt.user)
			if tt.reason == "" && (err != nil || got.UID != "uid-1") {
				t.Errorf("got %+v, %v, want the disks of uid-1", got, err)
			}
			if tt.reason != "" && (err == nil || err.Reason != tt.reason || !strings.Contains(err.Message, tt.err)) {
				t.Errorf("got error %+v, want %s with %q", err, tt.reason, tt.err)
			}
		})
	}
}

// The system on adopted disks keeps its attempt and secrets; the next one is the target's.
func TestAdoptedIdentity(t *testing.T) {
	old := target("old")
	old.Status.Install = &v1alpha1.InstallProgress{ID: 3}
	adopted := adopting("x")
	adopted.Status.Adoption = &v1alpha1.Adoption{Retained: string(old.UID), UID: string(old.UID), Attempt: 3}
	adopted.Status.Install = &v1alpha1.InstallProgress{ID: 3}
	key := []byte("0123456789abcdef")
	if got, want := AttemptID(adopted), AttemptID(old); got != want {
		t.Errorf("got attempt %s, want %s", got, want)
	}
	if SeedToken(key, adopted) != SeedToken(key, old) || Token(key, adopted) != Token(key, old) {
		t.Error("got other secrets than those of the installed system")
	}
	adopted.Status.Install.ID = 4
	if got, want := AttemptID(adopted), string(adopted.UID)+"-4"; got != want {
		t.Errorf("next attempt: got %s, want %s", got, want)
	}
	if !AwaitsAdoption(adopted, targetdisk.Record{}) || AwaitsAdoption(adopted, targetdisk.Record{Origin: &targetdisk.Origin{}}) {
		t.Error("AwaitsAdoption: want it until the record has an origin")
	}
}

// A target keeps the addresses for which the system on adopted disks is configured.
func TestAllocateAdopted(t *testing.T) {
	n := network(t)
	free := func(netip.Addr) (bool, error) { return false, nil }
	bmt := adopting("x")
	bmt.Status.Adoption = &v1alpha1.Adoption{MAC: "52:54:00:00:00:77", Address: "10.88.0.77"}
	got, err := NewAddresses("server", n).Allocate(n, bmt, free)
	if err != nil || got.MAC != "52:54:00:00:00:77" || got.Address.String() != "10.88.0.77" {
		t.Errorf("got %+v, %v, want the addresses of the adopted system", got, err)
	}
	a := NewAddresses("server", n)
	a.Hold("rival", AddressAllocation{Name: "rival", MAC: "52:54:00:00:00:78", Address: netip.MustParseAddr("10.88.0.77")})
	got, err = a.Allocate(n, bmt, free)
	if err != nil || got.MAC != "52:54:00:00:00:77" || got.Address.String() == "10.88.0.77" {
		t.Errorf("the address is used: got %+v, %v, want another one", got, err)
	}
	a = NewAddresses("server", n)
	a.Hold("rival", AddressAllocation{Name: "rival", MAC: "52:54:00:00:00:77", Address: netip.MustParseAddr("10.88.0.78")})
	if _, err := a.Allocate(n, bmt, free); err == nil || !strings.Contains(err.Error(), "used by rival") {
		t.Errorf("the MAC address is used: got error %v, want one with its user", err)
	}
}
