// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/golden"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/qemu"
)

// goldenJSON compares v with a file in testdata, which -update rewrites.
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
		Kernel: agent.Blob{Digest: digest("a"), Size: 1}, Initrd: agent.Blob{Digest: digest("b"), Size: 2},
		Overlay: agent.Blob{Digest: digest("c"), Size: 3}, Image: agent.Blob{Digest: digest("d"), Size: 4},
		ImagePin: digest("e"), DiskBytes: 5, Digest: digest("f"),
	}
}

func profile() *v1alpha1.BootProfile {
	p := &v1alpha1.BootProfile{}
	p.Spec.SSHUser, p.Spec.KernelArgs, p.Spec.IPXETemplate = "lab", []string{"quiet"}, "#!ipxe\n"
	p.Spec.Install.Handoff = v1alpha1.HandoffReset
	return p
}

func placed(name, ip string) *v1alpha1.BareMetalTarget {
	t := target(name)
	t.Status.MACAddress, t.Status.Address = MAC(string(t.UID), "lab-0"), ip
	return t
}

func documentInput(t *testing.T) DocumentInput {
	t.Helper()
	texts := Texts{UserData: "#cloud-config\n", NetworkConfig: "version: 2\n"}
	installing := DocumentTarget{Target: placed("installing", "10.88.0.11"), Profile: profile(), Content: content(), Texts: texts, PowerOn: time.Unix(1, 500).In(time.FixedZone("", 3600))}
	installing.Target.Spec.Parameters = map[string]string{"role": "database"}
	installed := DocumentTarget{Target: placed("installed", "10.88.0.10"), Profile: profile(), Content: content(), Texts: texts}
	installed.Target.Status.InstalledGeneration = 1
	waiting := DocumentTarget{Target: placed("waiting", "10.88.0.12"), Profile: profile(), Texts: texts}
	return DocumentInput{
		Network: network(t), LabMAC: "52:54:00:00:00:01", TokenKey: []byte("0123456789abcdef"), SSHKeys: []string{"ssh-ed25519 AAAA lab"},
		Programs: []agent.Program{
			{Architecture: "x86_64", Name: "ipxe.efi", Blob: agent.Blob{Digest: digest("1"), Size: 1}},
			{Architecture: "aarch64", Name: "ipxe-arm64.efi", Blob: agent.Blob{Digest: digest("2"), Size: 1}},
		},
		Targets: []DocumentTarget{waiting, installing, installed, {Target: target("new")}, {Target: placed("no-profile", "10.88.0.13")}},
	}
}

func TestDocument(t *testing.T) {
	in := documentInput(t)
	document := Document(in)
	goldenJSON(t, "document.json", document)
	if err := document.Validate(); err != nil {
		t.Errorf("netbootd would refuse it: %v", err)
	}
	// The order of what it is made from does not matter, or it would be pushed
	// again and again.
	in.Targets[0], in.Targets[2] = in.Targets[2], in.Targets[0]
	in.Programs[0], in.Programs[1] = in.Programs[1], in.Programs[0]
	if Document(in).Digest() != document.Digest() {
		t.Error("the document depends on the order of its targets or programs")
	}
}

func TestATargetThatCannotBeServedHarmsNoOther(t *testing.T) {
	in := documentInput(t)
	bad := DocumentTarget{Target: placed("bad", "10.88.0.99"), Profile: profile(), Content: content(),
		Texts: Texts{UserData: strings.Repeat("#", agent.MaxTemplateBytes+1)}}
	if err := CheckTarget(in.Network, in.LabMAC, bad); err == nil || !strings.Contains(err.Error(), "userDataTemplate") {
		t.Errorf("got %v", err)
	}
	for _, d := range in.Targets {
		if err := CheckTarget(in.Network, in.LabMAC, d); err != nil {
			t.Errorf("%s: %v", d.Target.Name, err)
		}
	}
	want := Document(in).Digest()
	in.Targets = append(in.Targets, bad)
	if Document(in).Digest() != want {
		t.Error("it is served, or others are not")
	}
}

func TestTokens(t *testing.T) {
	key := []byte("0123456789abcdef")
	a := target("a")
	token := Token(key, a)
	if len(token) != 32 || Token(key, a) != token {
		t.Errorf("token %q", token)
	}
	next := target("a")
	next.Spec.InstallGeneration = 2
	for name, other := range map[string]string{
		"another target": Token(key, target("b")), "another installation": Token(key, next), "another server": Token([]byte("fedcba9876543210"), a),
	} {
		if other == token {
			t.Errorf("%s has the same token", name)
		}
	}
}

func TestHostnames(t *testing.T) {
	for _, c := range []struct{ name, declared, want string }{
		{"target-1", "", "target-1"}, {"rack.1.node", "", "rack-1-node"}, {"target-1", "db", "db"},
	} {
		o := target(c.name)
		o.Spec.Hostname = c.declared
		if got := Hostname(o); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

const uid = "0f1e2d3c-0000-4000-8000-000000000001"

func TestServerMachine(t *testing.T) {
	s := &v1alpha1.ProvisioningServer{}
	s.Name, s.Namespace, s.UID = "lab", "default", uid
	s.Spec.Machine.Architecture, s.Spec.Machine.CPUs, s.Spec.Machine.Memory = v1alpha1.ArchitectureAArch64, 2, resource.MustParse("1Gi")
	plug := qemu.Backend{Dgram: &qemu.Dgram{Local: "/run/net", Remote: "/run/sw"}}
	m := ServerMachine(s, network(t), "/data", []string{"ssh-ed25519 AAAA lab"}, plug)
	goldenJSON(t, "server-machine.json", m)
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
	closed := network(t)
	closed.NAT = false
	if m := ServerMachine(s, closed, "/data", nil, plug); !m.NICs[0].Backend.User.Restrict {
		t.Error("a lab without a gateway reaches out through its server")
	}
}

func TestTargetMachine(t *testing.T) {
	o := target("target-1")
	o.UID = uid
	o.Spec.Machine.CPUs, o.Spec.Machine.Memory = 1, resource.MustParse("1.5Gi")
	o.Spec.Machine.Disks = []v1alpha1.Disk{{Size: resource.MustParse("10Gi")}, {Size: resource.MustParse("1Gi")}}
	plug := qemu.Backend{Dgram: &qemu.Dgram{Local: "/run/net", Remote: "/run/sw"}}
	network, disk := TargetMachine(o, network(t), MAC(uid, "lab-0"), "/data", plug, true), TargetMachine(o, network(t), MAC(uid, "lab-0"), "/data", plug, false)
	goldenJSON(t, "target-machine.json", network)
	for netboot, m := range map[bool]qemu.Machine{true: network, false: disk} {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(BootOrder(netboot), m.BootOrder()); diff != "" {
			t.Errorf("netboot %v (-want +got):\n%s", netboot, diff)
		}
	}
	if network.Digest() != disk.Digest() {
		t.Error("the boot order makes it another machine")
	}
}
