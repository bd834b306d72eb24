// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// rendered returns all that Check renders.
func rendered(t *testing.T, in Input) string {
	t.Helper()
	r := Renderer{Port: 80}
	out, err := r.Script(t.Context(), in, policy.Decision{Action: policy.ActionInstall})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		text, err := r.CloudInit(t.Context(), name, in)
		if err != nil {
			t.Fatal(err)
		}
		out += "\n" + text
	}
	return out
}

func checkInput() Input {
	return Input{
		Network: &netbootapi.Network{Address: netip.MustParsePrefix("10.0.0.1/24"), NAT: true, MTU: 1500, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.3")}},
		Machine: &netbootapi.Machine{
			UID: "uid",
			Content: netbootapi.Content{
				Name: "node", Hostname: "node", MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"), Architecture: "x86_64",
				SSHUser: "lab",
			},
			Control: netbootapi.Control{Token: "token-0123456789abcdef", SeedToken: "seed-0123456789abcdefg", InstanceID: "i-1"},
		},
		Texts: Texts{
			IPXE:     "#!ipxe\necho {{ .Name }} {{ .CommandLine }} {{ .MAC }} {{ .Domain }} {{ .DNS }} {{ .Architecture }}\n",
			UserData: "#cloud-config\nruncmd: [{{ .SSHAuthorizedKeys | toJson }}, {{ .Parameters | toJson }}]\n",
			SSHKeys:  "ssh-ed25519 AAAA lab\n",
		},
	}
}

// change sets a field to another valid value.
func change(t *testing.T, field reflect.Value, name string) {
	t.Helper()
	switch v := field.Addr().Interface().(type) {
	case *string:
		*v = map[string]string{"MAC": "52:54:00:00:00:02", "Architecture": "aarch64", "IPXE": *v + "echo more\n", "UserData": *v + "# more\n",
			"NetworkConfig": "version: 2\nethernets: {}\n", "SSHKeys": *v + "ssh-ed25519 BBBB me\n"}[name]
		if *v == "" {
			*v = "other"
		}
	case *netbootapi.Boot:
		*v = netbootapi.BootDisk
	case *int:
		*v += 100
	case *bool:
		*v = !*v
	case *netip.Addr:
		*v = netip.MustParseAddr("10.0.0.77")
	case *netip.Prefix:
		*v = netip.MustParsePrefix("10.0.0.2/16")
	case *[]netip.Addr:
		*v = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	case *[]string:
		*v = []string{"quiet"}
	case *map[string]string:
		*v = map[string]string{"role": "database"}
	case *netbootapi.Blob:
		*v = netbootapi.Blob{Digest: "sha256:1", Size: 2}
	case *netbootapi.RootDisk:
		v.Serial = "S1"
	case *netbootapi.RootPartition:
		v.Number = 2
	case **netbootapi.Declaration:
		*v = &netbootapi.Declaration{Key: "other"}
	default:
		t.Fatalf("field %s has type %T, want one that this test can change", name, v)
	}
}

// The key changes with each field on which the rendering depends, and with no other.
func TestCheckKeyHasWhatRenderingDependsOn(t *testing.T) {
	original := checkInput()
	text, key := rendered(t, original), CheckKey(original)
	if again := CheckKey(checkInput()); again != key {
		t.Errorf("the same input: got key %s, want %s", again, key)
	}
	for _, part := range []func(Input) any{
		func(in Input) any { return in.Network },
		func(in Input) any { return &in.Machine.Content },
		func(in Input) any { return &in.Machine.Control },
	} {
		kind := reflect.TypeOf(part(original)).Elem()
		for i := range kind.NumField() {
			in, name := checkInput(), kind.Field(i).Name
			change(t, reflect.ValueOf(part(in)).Elem().Field(i), name)
			checkKeyFollows(t, fmt.Sprintf("%s.%s", kind.Name(), name), in, text, key)
		}
	}
	for _, name := range []string{"IPXE", "UserData", "NetworkConfig", "SSHKeys"} {
		in := checkInput()
		change(t, reflect.ValueOf(&in.Texts).Elem().FieldByName(name), name)
		checkKeyFollows(t, "Texts."+name, in, text, key)
	}
}

// checkKeyFollows asserts that the key of an input differs from that of another exactly if
// the rendered text does.
func checkKeyFollows(t *testing.T, name string, in Input, text, key string) {
	t.Helper()
	// The size of the overlay is a limit of the script, not a part of it.
	depends := rendered(t, in) != text || name == "Content.Overlay"
	if changed := CheckKey(in) != key; changed != depends {
		t.Errorf("%s: got another key: %t, want %t", name, changed, depends)
	}
}
