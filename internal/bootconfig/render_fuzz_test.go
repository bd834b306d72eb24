// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"net/netip"
	"testing"

	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// FuzzScript checks that every result of Script is a valid iPXE script, whatever
// the template, the name and the kernel arguments contain.
func FuzzScript(f *testing.F) {
	f.Add("", "quiet", "node")
	f.Add("#!ipxe\nkernel {{ .KernelURL }} {{ .CommandLine }}\nboot\n", "console=ttyS0", "a")
	f.Add("{{ range $i := .DNS }}{{ end }}", "a || reboot", "b\nreboot")
	f.Add("#!ipxe\n{{ template \"x\" }}", "", "${net0/mac}")
	n := &netbootapi.Network{Address: netip.MustParsePrefix("10.0.0.1/24"), NAT: true, MTU: 1500}
	f.Fuzz(func(t *testing.T, template, arg, name string) {
		m := &netbootapi.Machine{
			Content: netbootapi.Content{
				Name: name, MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"), Architecture: "x86_64",
				KernelArgs: []string{arg},
			},
			Control: netbootapi.Control{Token: "token-0123456789abcdef", SeedToken: "seed-0123456789abcdefg"},
		}
		in := Input{Network: n, Machine: m, Texts: Texts{IPXE: template}}
		for _, action := range []policy.Action{policy.ActionInstall, policy.ActionDisk, policy.ActionWait} {
			out, err := Renderer{Port: 80}.Script(t.Context(), in, policy.Decision{Action: action, Message: name})
			if err != nil {
				continue // rejected
			}
			if err := ipxe.CheckScript(out); err != nil {
				t.Errorf("%s: %v\n%s", action, err, out)
			}
		}
	})
}
