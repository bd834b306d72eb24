// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/golden"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// goldenJSON compares v with a file in testdata, which the flag -update rewrites.
func goldenJSON(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Assert(t, string(got)+"\n", name)
}

func digest(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

func content() *Content {
	return &Content{
		Kernel: netbootapi.Blob{Digest: digest("a"), Size: 1}, Initrd: netbootapi.Blob{Digest: digest("b"), Size: 2},
		Overlay: netbootapi.Blob{Digest: digest("c"), Size: 3}, Image: netbootapi.Blob{Digest: digest("d"), Size: 4},
		ImagePin: digest("e"), DiskBytes: 5, Digest: digest("f"),
	}
}

func profile() *v1alpha1.BootProfile {
	p := &v1alpha1.BootProfile{}
	p.Spec.SSHUser = "lab"
	p.Spec.Image = &v1alpha1.ImageBoot{KernelArgs: []string{"quiet"}, Handoff: v1alpha1.HandoffReset}
	p.Spec.IPXETemplate = "#!ipxe\n"
	return p
}

func placed(name, ip string) *v1alpha1.BareMetalTarget {
	bmt := target(name)
	bmt.Status.NICs = []v1alpha1.NICStatus{{Name: "lab", MAC: MAC(string(bmt.UID), "lab-0"), Addresses: []string{ip}}}
	return bmt
}

// inputs returns the inputs of targets in every situation.
func inputs() map[string]EntryInput {
	texts := Templates{UserData: "#cloud-config\n", NetworkConfig: "version: 2\n"}
	key, keys := []byte("0123456789abcdef"), []string{"ssh-ed25519 AAAA lab", "ssh-ed25519 BBBB user"}
	installing := EntryInput{
		Target: placed("installing", "10.88.0.11"), Profile: profile(), Content: content(), Templates: texts, TokenKey: key, SSHKeys: keys,
		PowerOn: time.Unix(1, 500).In(time.FixedZone("", 3600)),
	}
	installing.Target.Spec.Parameters = map[string]string{"role": "database"}
	installed := EntryInput{
		Target: placed("installed", "10.88.0.10"), Profile: profile(), Content: content(), Templates: texts, TokenKey: key, SSHKeys: keys,
	}
	installed.Target.Status.InstalledGeneration = 1
	waiting := EntryInput{Target: placed("waiting", "10.88.0.12"), Profile: profile(), Templates: texts, TokenKey: key, SSHKeys: keys}
	noProfile := EntryInput{Target: placed("no-profile", "10.88.0.13"), TokenKey: key, SSHKeys: keys}
	edited := installing
	edited.Target = placed("edited", "10.88.0.14")
	edited.Content = nil
	edited.Seen = &netbootapi.MachineState{Content: digest("9"), Installing: true}
	booting := edited
	booting.Target = placed("booting", "10.88.0.17")
	booting.Seen = &netbootapi.MachineState{Content: digest("9")}
	kept := installed
	kept.Target = placed("kept", "10.88.0.15")
	kept.Target.Status.InstalledGeneration = 1
	kept.Content, kept.Profile = nil, nil
	kept.Seen = &netbootapi.MachineState{Content: digest("9")}
	idle := waiting
	idle.Target = placed("idle", "10.88.0.16")
	idle.Seen = &netbootapi.MachineState{Content: digest("9")}
	rootDisk := installing
	rootDisk.Target = placed("root-disk", "10.88.0.18")
	rootDisk.Target.Spec.Machine.Disks = []v1alpha1.Disk{{Name: "disk0"}, {Name: "data"}}
	rootDisk.Target.Spec.RootDisk = &v1alpha1.RootDiskHints{Name: "data"}
	rootDisk.Target.Spec.Cleaning = v1alpha1.CleaningMetadata
	return map[string]EntryInput{
		"root_disk":  rootDisk,
		"installing": installing, "installed": installed, "waiting": waiting, "no_profile": noProfile,
		"profile_edited_while_installing": edited, "profile_edited_while_booting": booting,
		"profile_deleted_after_installation": kept, "profile_edited_while_idle": idle,
	}
}

func TestEntry(t *testing.T) {
	entries := map[string]TargetEntry{}
	lab := network(t)
	served := lab.NetbootdConfig("52:54:00:00:00:01")
	for name, in := range inputs() {
		entry, ok := Entry(in)
		if !ok {
			t.Errorf("%s: got no entry, want one", name)
			continue
		}
		entries[name] = entry
		m := netbootapi.Machine{UID: string(in.Target.UID), Control: entry.Control}
		if entry.Content == nil {
			continue // netbootd validates it with the content that it has
		}
		m.Content = *entry.Content
		if err := m.Validate(&served); err != nil {
			t.Errorf("%s: got error %v, want none", name, err)
		}
		for _, blob := range m.Texts() {
			if got := netbootapi.TextBlob(textKey(in.TokenKey), entry.Texts[blob.Digest]); got != blob {
				t.Errorf("%s: the text of %v: got %v, want it to be there", name, blob, got)
			}
		}
	}
	goldenJSON(t, "entries.json", entries)
	if _, ok := Entry(EntryInput{Target: target("new")}); ok {
		t.Error("a target without an address: got an entry, want none")
	}
}

func TestEntryHasRootPartition(t *testing.T) {
	in := inputs()["installing"]
	in.Profile = in.Profile.DeepCopy()
	if in.Profile.Spec.Image == nil {
		in.Profile.Spec.Image = &v1alpha1.ImageBoot{}
	}
	in.Profile.Spec.Image.Root = &v1alpha1.RootPartition{Number: 3}
	entry, ok := Entry(in)
	if want := (netbootapi.RootPartition{Number: 3}); !ok || entry.Content == nil || entry.Content.Root != want {
		t.Errorf("got entry %+v, want one with root %+v", entry, want)
	}
}

// The address of a text shows nothing of it: without the server's key it cannot be
// compared with a guess.
func TestTextsAreAddressedByKey(t *testing.T) {
	in := inputs()["installing"]
	entry, _ := Entry(in)
	in.TokenKey = []byte("fedcba9876543210")
	other, _ := Entry(in)
	if a, b := entry.Content.UserDataTemplate, other.Content.UserDataTemplate; a == b || a.Size != b.Size {
		t.Errorf("the same text of two servers: got %v and %v, want two digests", a, b)
	}
}

func TestServerConfig(t *testing.T) {
	programs := []netbootapi.Program{
		{Architecture: "x86_64", Name: "ipxe.efi", Blob: netbootapi.Blob{Digest: digest("1"), Size: 1}},
		{Architecture: "aarch64", Name: "ipxe-arm64.efi", Blob: netbootapi.Blob{Digest: digest("2"), Size: 1}},
	}
	encoded := func() string {
		config := ServerConfig(network(t), "lab", "52:54:00:00:00:01", programs, []byte("0123456789abcdef"))
		if err := config.Validate(); err != nil {
			t.Errorf("got error %v, want none", err)
		}
		return string(config.Encode())
	}
	first := encoded()
	// The order of the programs must not matter, or the configuration would be sent
	// repeatedly.
	programs[0], programs[1] = programs[1], programs[0]
	if again := encoded(); again != first {
		t.Errorf("programs in another order: got %s, want %s", again, first)
	}
	if strings.Contains(first, "0123456789abcdef") {
		t.Errorf("got the token key in %s, want only a key derived from it", first)
	}
}

func TestCheckEntry(t *testing.T) {
	check := func(in EntryInput) (bool, error) {
		_, ok, err := CheckEntry(network(t), "52:54:00:00:00:01", in)
		return ok, err
	}
	for name, in := range inputs() {
		if ok, err := check(in); !ok || err != nil {
			t.Errorf("%s: got %v, error %v; want it to be valid", name, ok, err)
		}
	}
	if ok, err := check(EntryInput{Target: target("new")}); ok || err != nil {
		t.Errorf("a target without an address: got %v, error %v; want neither", ok, err)
	}
	on := inputs()["installing"]
	off := on
	off.PowerOn = time.Time{}
	a, _, _ := CheckEntry(network(t), "52:54:00:00:00:01", on)
	b, _, _ := CheckEntry(network(t), "52:54:00:00:00:01", off)
	if diff := cmp.Diff(a, b, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("what is checked before a power-on and after it (-before +after):\n%s", diff)
	}
	large := inputs()["installing"]
	large.Templates.UserData = strings.Repeat("#", netbootapi.MaxTextBytes+1)
	wide := inputs()["installing"]
	wide.Target.Spec.Parameters = map[string]string{"large": strings.Repeat("x", 64<<10)}
	for want, in := range map[string]EntryInput{"userDataTemplate": large, "parameters and kernel arguments are too large": wide} {
		if _, err := check(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// A text of a content that netbootd keeps can be sent again.
func TestKeptContentHasTexts(t *testing.T) {
	installed := inputs()["installed"]
	entry, _ := Entry(installed)
	kept := installed
	kept.Content, kept.Seen = nil, &netbootapi.MachineState{Content: digest("9")}
	again, _ := Entry(kept)
	if again.Content != nil {
		t.Fatalf("got content %+v, want none", again.Content)
	}
	if diff := cmp.Diff(entry.Texts, again.Texts); diff != "" {
		t.Errorf("texts (-of the entry +of the control part alone):\n%s", diff)
	}
}

// What the check accepts, netbootd accepts: with all that is added after the check.
func TestCheckedEntriesFit(t *testing.T) {
	in := inputs()["installing"]
	in.Profile.Spec.Image.KernelArgs = nil
	for range 64 {
		in.Profile.Spec.Image.KernelArgs = append(in.Profile.Spec.Image.KernelArgs, strings.Repeat("a", 32))
	}
	// The API admits 64 parameters of any length.
	parameters := func(size int) map[string]string {
		out := map[string]string{}
		for n := range 64 {
			out[fmt.Sprintf("parameter-%02d", n)] = strings.Repeat("v", size)
		}
		return out
	}
	accepted := 0
	for size := 512; ; size++ {
		in.Target.Spec.Parameters = parameters(size)
		if _, _, err := CheckEntry(network(t), "52:54:00:00:00:01", in); err != nil {
			break
		}
		accepted = size
	}
	if accepted < 850 {
		t.Fatalf("got 64 parameters of %d bytes accepted, want at least 850", accepted)
	}
	in.Target.Spec.Parameters = parameters(accepted)
	in.Target.Status.InstalledGeneration = 1 // adds the confirmation of the boot order
	in.PowerOn = time.Unix(1<<33, 123456789)
	entry, _ := Entry(in)
	if size := len(netbootapi.NewEntry(entry.Content, entry.Control).Encode()); size > netbootapi.MaxEntryBytes {
		t.Errorf("got an entry of %d bytes, want at most %d", size, netbootapi.MaxEntryBytes)
	}
}

func TestToken(t *testing.T) {
	key := []byte("0123456789abcdef")
	a := target("a")
	token := Token(key, a)
	if len(token) != 32 {
		t.Errorf("got token %q, want 32 characters", token)
	}
	if again := Token(key, a); again != token {
		t.Errorf("second call: got token %q, want %q", again, token)
	}
	next := target("a")
	next.Status.Install = &v1alpha1.InstallProgress{ID: 2}
	for name, other := range map[string]string{
		"another target": Token(key, target("b")), "another installation": Token(key, next),
		"another server": Token([]byte("fedcba9876543210"), a),
	} {
		if other == token {
			t.Errorf("%s: got the same token, want another one", name)
		}
	}
}

func TestHostname(t *testing.T) {
	for _, c := range []struct{ name, declared, want string }{
		{"target-1", "", "target-1"}, {"rack.1.node", "", "rack-1-node"}, {"target-1", "db", "db"},
	} {
		o := target(c.name)
		o.Spec.Hostname = c.declared
		if got := Hostname(o); got != c.want {
			t.Errorf("Hostname of %q with %q declared: got %q, want %q", c.name, c.declared, got, c.want)
		}
	}
}

const uid = "0f1e2d3c-0000-4000-8000-000000000001"

func TestServerMachine(t *testing.T) {
	s := &v1alpha1.ProvisioningServer{}
	s.Name = "lab"
	s.Namespace = "default"
	s.UID = uid
	s.Spec.Machine.Architecture = v1alpha1.ArchitectureAArch64
	s.Spec.Machine.CPUs = 2
	s.Spec.Machine.Memory = resource.MustParse("1Gi")
	plug := machine.Backend{Dgram: &machine.Dgram{Local: "/run/net", Remote: "/run/sw"}}
	m := ServerMachine(s, network(t), "/data", []string{"ssh-ed25519 AAAA lab"}, plug)
	goldenJSON(t, "server-machine.json", m)
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
	closed := network(t)
	closed.NAT = false
	if m := ServerMachine(s, closed, "/data", nil, plug); !m.NICs[0].Backend.User.Restrict {
		t.Errorf("uplink of a lab without a gateway: got %+v, want it restricted", m.NICs[0].Backend.User)
	}
}

func TestTargetMachine(t *testing.T) {
	o := target("target-1")
	o.UID = uid
	o.Spec.Machine.CPUs = 1
	o.Spec.Machine.Memory = resource.MustParse("1.5Gi")
	o.Spec.Machine.Disks = []v1alpha1.Disk{
		{Name: "disk0", Size: resource.MustParse("10Gi")}, {Name: "data", Size: resource.MustParse("1Gi"), Serial: "WD-123"},
	}
	plug := machine.Backend{Dgram: &machine.Dgram{Local: "/run/net", Remote: "/run/sw"}}
	options := TargetMachineOptions{Network: network(t), MAC: MAC(uid, "lab-0"), Dir: "/data", Lab: plug}
	disk := TargetMachine(o, options)
	options.Netboot = true
	network := TargetMachine(o, options)
	goldenJSON(t, "target-machine.json", network)
	for netboot, m := range map[bool]machine.Machine{true: network, false: disk} {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(BootOrder(netboot), m.BootOrder()); diff != "" {
			t.Errorf("netboot %v (-want +got):\n%s", netboot, diff)
		}
	}
	if got, want := disk.Digest(), network.Digest(); got != want {
		t.Errorf("another boot order: got digest %s, want %s", got, want)
	}
}

// The seed secret does not follow from the boot secret, and has ended once the manager
// knows the host keys of an installed system.
func TestSeedToken(t *testing.T) {
	key := []byte("0123456789abcdef")
	a := target("a")
	if token := SeedToken(key, a); len(token) != 32 || token == Token(key, a) || token == SeedToken(key, target("b")) {
		t.Errorf("got seed token %q, want 32 characters of its own", token)
	}
	for name, c := range map[string]struct {
		installed int64
		keys      []string
		want      bool
	}{
		"being installed": {keys: []string{"ssh-ed25519 AAAA"}},
		"installed":       {installed: 1},
		"phoned home":     {installed: 1, keys: []string{"ssh-ed25519 AAAA"}, want: true},
	} {
		in := inputs()["installing"]
		in.Target.Status.InstalledGeneration = c.installed
		in.Target.Status.SSHHostKeys = c.keys
		if entry, _ := Entry(in); entry.Control.SeedEnded != c.want {
			t.Errorf("%s: got seed ended %t, want %t", name, entry.Control.SeedEnded, c.want)
		}
	}
}
