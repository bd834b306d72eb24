// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/startrecord"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// fieldPaths adds the paths of a type's fields. A struct of this API is followed unless its
// path is in whole; a list or a value is a leaf.
func fieldPaths(path string, t reflect.Type, whole map[string]bool, out map[string]bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	own := t.PkgPath() == reflect.TypeFor[v1alpha1.BareMetalTarget]().PkgPath()
	if t.Kind() != reflect.Struct || !own || whole[path] {
		out[path] = true
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" { // inline
			fieldPaths(path, f.Type, whole, out)
			continue
		}
		fieldPaths(path+"."+name, f.Type, whole, out)
	}
}

// checkCovered checks that every field of a spec is in exactly one of the lists.
func checkCovered(t *testing.T, root string, spec reflect.Type, lists ...[]string) {
	t.Helper()
	whole, seen := map[string]bool{}, map[string]int{}
	for _, field := range slices.Concat(lists...) {
		whole[field] = true
		seen[field]++
	}
	paths := map[string]bool{}
	fieldPaths(root, spec, whole, paths)
	for path := range paths {
		if seen[path] != 1 {
			t.Errorf("%s: got it %d times in the lists, want 1; a field that is added is reported as pending, or is immutable or live", path, seen[path])
		}
	}
	for field := range seen {
		if !paths[field] {
			t.Errorf("%s: got a field that does not exist", field)
		}
	}
}

// TestPendingFieldsAreComplete fails if a field of a spec is neither compared with what
// runs or was installed, nor immutable, nor followed at once.
func TestPendingFieldsAreComplete(t *testing.T) {
	own := func(fields []string) (out []string) {
		for _, f := range fields {
			if strings.HasPrefix(f, "spec.") {
				out = append(out, f)
			}
		}
		return out
	}
	in := inputs()["installing"]
	installed := slices.Collect(maps.Keys(Declared(in).Fields))
	target := v1alpha1.BareMetalTarget{}
	checkCovered(t, "spec", reflect.TypeFor[v1alpha1.BareMetalTargetSpec](), own(installed),
		slices.Collect(maps.Keys(TargetStart(&target))),
		[]string{ // immutable
			"spec.provisioningServerRef", "spec.machine.architecture", "spec.machine.runner", "spec.machine.disks",
		},
		[]string{ // of which only one value is supported yet
			"spec.machine.firmware", "spec.machine.networkBoot", "spec.machine.secureBoot", "spec.machine.tpm", "spec.machine.smbios",
			"spec.parametersFrom", "spec.userData", "spec.networkConfig", "spec.onNetworkBoot",
		},
		[]string{ // followed at once, or read when the target is next installed or deleted
			"spec.power", "spec.installGeneration", "spec.cleaning", "spec.profileChangePolicy", "spec.installTimeout",
			"spec.maxAttempts", "spec.diskRetention",
		})
	var profile []string
	for _, f := range installed {
		if field, ok := strings.CutPrefix(f, "bootProfile."); ok {
			profile = append(profile, field)
		}
	}
	checkCovered(t, "spec", reflect.TypeFor[v1alpha1.BootProfileSpec](), profile,
		[]string{ // immutable, or with only one value yet
			"spec.architecture", "spec.installer", "spec.live", "spec.iso", "spec.efi", "spec.script", "spec.readiness",
		})
	server := v1alpha1.ProvisioningServer{}
	started := ServerStart(&server)
	var network, live []string
	fields := map[string]bool{}
	fieldPaths("spec.network", reflect.TypeFor[v1alpha1.LabNetwork](), map[string]bool{}, fields)
	for f := range fields {
		network = append(network, f)
	}
	for _, f := range network { // the network is followed at once, or immutable; see NetworkInForce
		if started[f] == "" {
			live = append(live, f)
		}
	}
	checkCovered(t, "spec", reflect.TypeFor[v1alpha1.ProvisioningServerSpec](), slices.Collect(maps.Keys(started)), live,
		[]string{"spec.machine.architecture"}, []string{"spec.ipxe"})
}

func TestPendingStart(t *testing.T) {
	declare := func(memory string, cpus int32) *v1alpha1.BareMetalTarget {
		bmt := target("a")
		bmt.Spec.Machine.Memory = resource.MustParse(memory)
		bmt.Spec.Machine.CPUs = cpus
		return bmt
	}
	runs := machine.State{Phase: machine.PhaseRunning, Digest: "sha256:a", StartedAt: epoch}
	started := startrecord.Record{Digest: "sha256:a", Fields: TargetStart(declare("1Gi", 1))}
	change := func(fields ...string) (out []v1alpha1.PendingChange) {
		for _, f := range fields {
			out = append(out, v1alpha1.PendingChange{Field: f, AppliesAt: v1alpha1.AppliesAtPowerOn})
		}
		return out
	}
	faulty := declare("1Gi", 1)
	faulty.Spec.Machine.Runner = v1alpha1.RunnerSimulated
	faulty.Spec.Machine.Simulation = &v1alpha1.Simulation{FirmwareDelay: &metav1.Duration{Duration: time.Second}}
	for name, c := range map[string]struct {
		target  *v1alpha1.BareMetalTarget
		state   machine.State
		started startrecord.Record
		want    []v1alpha1.PendingChange
	}{
		"nothing":                  {declare("1Gi", 1), runs, started, nil},
		"the same quantity":        {declare("1024Mi", 1), runs, started, nil},
		"the quantity as a number": {declare("1073741824", 1), runs, started, nil},
		"both":                     {declare("2Gi", 2), runs, started, change(fieldCPUs, fieldMemory)},
		"simulation":               {faulty, runs, started, change(fieldSimulation)},
		"off":                      {declare("2Gi", 2), machine.State{Phase: machine.PhaseStopped, Digest: "sha256:a"}, started, nil},
		"record of another start":  {declare("2Gi", 2), runs, startrecord.Record{Digest: "sha256:b", Fields: started.Fields}, nil},
		"no record":                {declare("2Gi", 2), runs, startrecord.Record{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, PendingStart(TargetStart(c.target), c.state, c.started)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestPendingInstall(t *testing.T) {
	base := inputs()["installing"]
	base.Network = network(t)
	base.Templates = Templates{} // the default network configuration
	base.Target.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "disk0"}, {Name: "data"}}
	was := (*targetdisk.Declaration)(Declared(base))
	installed := targetdisk.Record{Attempt: targetdisk.Attempt{ID: 1, Generation: 1, Number: 1}, Installed: true, Declared: was}
	edit := func(change func(in *EntryInput)) EntryInput {
		in := base
		in.Target = base.Target.DeepCopy()
		in.Profile = base.Profile.DeepCopy()
		c := *base.Content
		in.Content = &c
		change(&in)
		return in
	}
	for name, c := range map[string]struct {
		in   EntryInput
		want []string
	}{
		"nothing": {base, nil},
		"the same host name, declared": {edit(func(in *EntryInput) {
			in.Target.Spec.Hostname = in.Target.Name
		}), nil},
		"host name":            {edit(func(in *EntryInput) { in.Target.Spec.Hostname = "other" }), []string{fieldHostname}},
		"parameters":           {edit(func(in *EntryInput) { in.Target.Spec.Parameters = map[string]string{"role": "web"} }), []string{fieldParameters}},
		"no parameters":        {edit(func(in *EntryInput) { in.Target.Spec.Parameters = nil }), []string{fieldParameters}},
		"address":              {edit(func(in *EntryInput) { in.Target.Status.NICs[0].Addresses[0] = "10.88.0.99" }), []string{fieldNICs}},
		"another profile":      {edit(func(in *EntryInput) { in.Target.Spec.BootProfileRef.Name = "other" }), []string{fieldProfileRef}},
		"image of the profile": {edit(func(in *EntryInput) { in.Content.ImagePin = digest("0") }), []string{fieldImage}},
		"user-data and kernel arguments": {edit(func(in *EntryInput) {
			in.Templates.UserData = "#cloud-config\n{}\n"
			in.Profile.Spec.Image.KernelArgs = nil
		}), []string{fieldKernelArgs, fieldUserData}},
		"a profile that is not ready": {edit(func(in *EntryInput) {
			in.Content = nil
			in.Profile.Spec.SSHUser = "other"
		}), []string{fieldSSHUser}},
		"the selected disk is the first one": {edit(func(in *EntryInput) {
			in.Target.Spec.RootDisk = &v1alpha1.RootDiskHints{Name: "disk0"}
		}), nil},
		"root disk": {edit(func(in *EntryInput) {
			in.Target.Spec.RootDisk = &v1alpha1.RootDiskHints{Name: "data"}
		}), []string{fieldRootDisk}},
		"domain":                      {edit(func(in *EntryInput) { in.Network.Domain = "other.internal" }), []string{fieldLabDomain}},
		"DNS":                         {edit(func(in *EntryInput) { in.Network.DNS = []netip.Addr{netip.MustParseAddr("10.88.0.9")} }), []string{fieldLabDNS}},
		"gateway":                     {edit(func(in *EntryInput) { in.Network.NAT = !in.Network.NAT }), []string{fieldLabGateway}},
		"a network that is not known": {edit(func(in *EntryInput) { in.Network = Network{} }), nil},
		"another key": {edit(func(in *EntryInput) {
			in.TokenKey = []byte("another key with its length")
			in.Target.Spec.Hostname = "other"
		}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range PendingInstall(c.in.Target, installed, UpToDateInput{Declared: Declared(c.in)}) {
				got = append(got, p.Field)
				if p.AppliesAt != v1alpha1.AppliesAtInstall {
					t.Errorf("%s: got %s", p.Field, p.AppliesAt)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A system whose templates use none of a network's values does not depend on them.
func TestPendingNetworkOfTemplates(t *testing.T) {
	in := inputs()["installing"]
	in.Network = network(t)
	in.Templates = Templates{NetworkConfig: "version: 2\n", UserData: "#cloud-config\nmanage_resolv_conf: {{ .DNS }}\n"}
	was := (*targetdisk.Declaration)(Declared(in))
	in.Network.NAT = !in.Network.NAT
	in.Network.Domain = "other.internal"
	in.Network.DNS = []netip.Addr{netip.MustParseAddr("10.88.0.9")}
	got := PendingInstall(in.Target, targetdisk.Record{Installed: true, Declared: was}, UpToDateInput{Declared: Declared(in)})
	want := []v1alpha1.PendingChange{{Field: fieldLabDNS, AppliesAt: v1alpha1.AppliesAtInstall}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What a status records is kept while the keys of the server, or what was installed, are
// not known.
func TestPendingInstallUnknown(t *testing.T) {
	recorded := []v1alpha1.PendingChange{{Field: fieldHostname, AppliesAt: v1alpha1.AppliesAtInstall}}
	bmt := target("a")
	bmt.Status.PendingChanges = append([]v1alpha1.PendingChange{{Field: fieldCPUs, AppliesAt: v1alpha1.AppliesAtPowerOn}}, recorded...)
	installed := targetdisk.Record{Installed: true, Declared: &targetdisk.Declaration{Key: "a"}}
	if diff := cmp.Diff(recorded, PendingInstall(bmt, installed, UpToDateInput{})); diff != "" {
		t.Errorf("no keys: (-want +got)\n%s", diff)
	}
	installed.Declared = nil
	if got := PendingInstall(bmt, installed, UpToDateInput{}); got != nil {
		t.Errorf("no record: got %v, want none", got)
	}
	if got := PendingInstall(bmt, targetdisk.Record{}, UpToDateInput{}); got != nil {
		t.Errorf("not installed: got %v, want none", got)
	}
}

func TestUpToDateReportsPendingChanges(t *testing.T) {
	bmt := target("a")
	bmt.Spec.BootProfileRef.Name = "debian"
	install := v1alpha1.PendingChange{Field: fieldHostname, AppliesAt: v1alpha1.AppliesAtInstall}
	start := v1alpha1.PendingChange{Field: fieldMemory, AppliesAt: v1alpha1.AppliesAtPowerOn}
	ofProfile := v1alpha1.PendingChange{Field: fieldUserData, AppliesAt: v1alpha1.AppliesAtInstall}
	r := targetdisk.Record{Installed: true, ProfileDigest: "hmac-sha256:k:a"}
	for name, c := range map[string]struct {
		digest  string
		pending []v1alpha1.PendingChange
		reason  string
		message []string
	}{
		"none":     {"a", nil, v1alpha1.ReasonUpToDate, nil},
		"power-on": {"a", []v1alpha1.PendingChange{start}, v1alpha1.ReasonRestartNeeded, []string{fieldMemory, "set spec.power to Off"}},
		"install": {"a", []v1alpha1.PendingChange{install}, v1alpha1.ReasonReinstallNeeded,
			[]string{fieldHostname, "raise spec.installGeneration"}},
		"server": {"a", []v1alpha1.PendingChange{{Field: fieldLabDomain, AppliesAt: v1alpha1.AppliesAtInstall}}, v1alpha1.ReasonReinstallNeeded,
			[]string{fieldLabDomain, "raise spec.installGeneration"}},
		"both": {"a", []v1alpha1.PendingChange{start, install}, v1alpha1.ReasonReinstallNeeded, []string{fieldHostname, fieldMemory}},
		"profile and all": {"b", []v1alpha1.PendingChange{start, ofProfile, install}, v1alpha1.ReasonProfileChanged,
			[]string{"profile debian has changed", fieldHostname, fieldMemory}},
	} {
		t.Run(name, func(t *testing.T) {
			got := UpToDateCondition(bmt, r, UpToDateInput{ProfileDigest: "hmac-sha256:k:" + c.digest, Pending: c.pending})
			if got.Reason != c.reason || (got.Status == metav1.ConditionTrue) != (c.pending == nil) {
				t.Errorf("got %+v, want reason %s", got, c.reason)
			}
			for _, want := range c.message {
				if !strings.Contains(got.Message, want) {
					t.Errorf("got message %q, want it to contain %q", got.Message, want)
				}
			}
		})
	}
}

func TestServerDiskOfEqualSizes(t *testing.T) {
	path := func(size string) string {
		s := &v1alpha1.ProvisioningServer{}
		s.Spec.Machine.DiskSize = resource.MustParse(size)
		return ServerDiskPath("/d", s)
	}
	if a, b, c := path("16Gi"), path("16384Mi"), path("17179869184"); a != b || a != c {
		t.Errorf("got disks %s, %s and %s for equal sizes, want one", a, b, c)
	}
	if path("16Gi") == path("17Gi") {
		t.Error("got one disk for two sizes, want two")
	}
}
