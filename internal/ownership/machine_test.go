// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/go-logr/logr"
)

func TestRecordMachine(t *testing.T) {
	dir := t.TempDir()
	owner := MachineOwner{
		Kind: "BareMetalTarget", Namespace: "default", Name: "target-1", UID: "1", Retention: "Retain",
		Network: "2", Mode: "Userspace", Cluster: "3",
	}
	check := func(want MachineOwner) {
		t.Helper()
		if got, err := LoadMachine(dir); err != nil || got != want {
			t.Errorf("got owner %+v, %v; want %+v", got, err, want)
		}
	}
	check(MachineOwner{})
	record := func(o MachineOwner) os.FileInfo {
		t.Helper()
		if err := RecordMachine(dir, o); err != nil {
			t.Fatal(err)
		}
		check(o)
		info, err := os.Stat(filepath.Join(dir, MachineRecordName))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := record(owner)
	if again := record(owner); !os.SameFile(first, again) {
		t.Error("an unchanged owner was written again")
	}
	owner.Retention = "Delete"
	record(owner)
	if err := os.WriteFile(filepath.Join(dir, MachineRecordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadMachine(dir); err == nil || got != (MachineOwner{}) {
		t.Errorf("got owner %+v, %v from a damaged record, want an error", got, err)
	}
	record(owner) // replaces it
	missing := filepath.Join(dir, "missing")
	if err := RecordMachine(missing, owner); err != nil {
		t.Errorf("got %v for a machine without a directory, want nothing done", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory of a machine was created for the record")
	}
}

func TestListMachines(t *testing.T) {
	data := t.TempDir()
	if got, err := ListMachines(data); err != nil || len(got) != 0 {
		t.Errorf("without machines: got %+v, %v; want none", got, err)
	}
	const owned, bare, damaged = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002",
		"00000000-0000-4000-8000-000000000003"
	path := func(elem ...string) string { return filepath.Join(append([]string{data, "machines"}, elem...)...) }
	for name, content := range map[string]string{
		path(owned, "disk0.raw"): "", path(bare, "serial.log"): "", path(damaged, MachineRecordName): "{", path(damaged, "disk0-1.qcow2"): "",
		path("accelerator"): "", path("other", "disk0.raw"): "",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	owner := MachineOwner{Kind: "BareMetalTarget", UID: owned}
	if err := RecordMachine(path(owned), owner); err != nil {
		t.Fatal(err)
	}
	want := []MachineDir{
		{ID: owned, Path: path(owned), Owner: owner, HasDisks: true},
		{ID: bare, Path: path(bare)},
		{ID: damaged, Path: path(damaged), HasDisks: true},
	}
	got, err := ListMachines(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
}

func TestClusterIDIsTheLease(t *testing.T) {
	c := newCluster(t)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: LeaseName, UID: "lease"}}
	if err := c.Create(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	cluster, err := AcquireCluster(t.Context(), ClusterOptions{
		Client: c, Namespace: "x", Directory: &Directory{ID: "1", Location: "a:/one"}, Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cluster.ID(); got != "lease" {
		t.Errorf("got ID %q, want that of the Lease", got)
	}
}
