// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func ExampleDecide() {
	config := &netbootapi.ServerConfig{
		Programs: []netbootapi.Program{{Architecture: "x86_64", Name: "ipxe.efi"}},
	}
	machine := &netbootapi.Machine{
		Content: netbootapi.Content{Name: "node-1", Architecture: "x86_64", Image: netbootapi.Blob{Digest: "sha256:image"}},
		Control: netbootapi.Control{Boot: netbootapi.BootInstall, Attempt: "1"},
	}
	client := policy.Client{Machine: machine}
	uploaded := false
	have := func(digest string) bool { return uploaded || digest != "sha256:image" }

	d := policy.Decide(config, netbootapi.MachineState{}, have, client)
	fmt.Println(d.Action, d.Message)
	uploaded = true
	d = policy.Decide(config, netbootapi.MachineState{}, have, client)
	fmt.Println(d.Action, d.Message)
	d = policy.Decide(config, netbootapi.MachineState{}, have, policy.Client{})
	fmt.Println(d.Action, d.Message)
	// Output:
	// Wait not uploaded yet: image
	// Install installing node-1
	// None this client is not declared
}
