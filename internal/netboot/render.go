// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/cloudinit"
	"github.com/pxelab/pxelab/internal/install"
	"github.com/pxelab/pxelab/internal/ipxe"
)

// renderer turns configuration into the documents that machines fetch. It is
// pure.
type renderer struct {
	// port of the HTTP server on the lab address.
	port uint16
	// dns are the resolvers handed out.
	dns []netip.Addr
}

// serverURL is "http://ADDRESS/", with the port where it is not 80.
func (r renderer) serverURL(n *agent.Network) string {
	host := n.Address.Addr().String()
	if r.port != 80 {
		host += ":" + strconv.Itoa(int(r.port))
	}
	return "http://" + host + "/"
}

func (r renderer) baseURL(n *agent.Network, m *agent.Machine) string {
	return r.serverURL(n) + "m/" + m.Token + "/"
}

func (r renderer) scriptURL(n *agent.Network, m *agent.Machine) string {
	return r.baseURL(n, m) + "boot.ipxe"
}

func (r renderer) programURL(n *agent.Network, p *agent.Program) string {
	return r.serverURL(n) + "program/" + p.Name
}

func gateway(n *agent.Network) string {
	if n.NAT {
		return n.Address.Addr().String()
	}
	return ""
}

func (r renderer) values(n *agent.Network, m *agent.Machine) cloudinit.Values {
	v := cloudinit.Values{
		Name: m.Name, Hostname: m.Hostname, InstanceID: m.InstanceID, Architecture: m.Architecture,
		MAC: m.MAC, Address: m.Address.String(), PrefixLength: n.Address.Bits(),
		Gateway: gateway(n), Domain: n.Domain, MTU: n.MTU,
		ServerAddress: n.Address.Addr().String(), ServerURL: r.serverURL(n), BaseURL: r.baseURL(n, m),
		SSHUser: m.SSHUser, SSHAuthorizedKeys: m.SSHAuthorizedKeys, Parameters: m.Parameters,
	}
	for _, a := range r.dns {
		v.DNS = append(v.DNS, a.String())
	}
	return v
}

// scriptData is what an iPXE template sees.
type scriptData struct {
	cloudinit.Values
	// KernelURL, InitrdURL and OverlayURL are the files, CommandLine the
	// whole kernel command line of the default script, whose images are named
	// "initrd" and "overlay".
	KernelURL, InitrdURL, OverlayURL string
	CommandLine                      string
}

// script is the iPXE script for a decision.
func (r renderer) script(n *agent.Network, m *agent.Machine, d Decision) (string, error) {
	switch d.Action {
	case ActionDisk, ActionNone:
		// A machine that got as far as iPXE and is to boot nothing goes on,
		// too: there is nothing here to wait for.
		return ipxe.Disk(m.Name), nil
	case ActionWait:
		return ipxe.Wait(r.baseURL(n, m), d.Message), nil
	}
	i := ipxe.Install{
		Name: m.Name, BaseURL: r.baseURL(n, m), Architecture: m.Architecture,
		InitPath: install.InitPath, URLArg: install.ArgURL, NetArg: install.ArgNet,
		PrefixLength: n.Address.Bits(), Gateway: gateway(n), MTU: n.MTU,
		KernelArgs: m.KernelArgs, OverlaySize: m.Overlay.Size,
	}
	if m.IPXETemplate == "" {
		return i.Script()
	}
	line, err := i.CommandLine()
	if err != nil {
		return "", err
	}
	base := i.BaseURL
	out, err := cloudinit.RenderTemplate("ipxe", m.IPXETemplate, scriptData{
		Values: r.values(n, m), CommandLine: line,
		KernelURL: base + "kernel", InitrdURL: base + "initrd", OverlayURL: base + "overlay",
	})
	if err != nil {
		return "", err
	}
	return out, ipxe.CheckScript(out)
}

// plan is what the installer is to do.
func (r renderer) plan(n *agent.Network, m *agent.Machine) (install.Plan, error) {
	v := r.values(n, m)
	network, err := cloudinit.RenderNetworkConfig(m.NetworkConfigTemplate, v)
	if err != nil {
		return install.Plan{}, err
	}
	// The installed system would fail on its user-data at its first boot:
	// better not to install it.
	if _, err := cloudinit.RenderUserData(m.UserDataTemplate, v); err != nil {
		return install.Plan{}, err
	}
	handoff := m.Handoff
	if handoff == "" {
		handoff = "Reset"
	}
	return install.Plan{
		Attempt: m.Attempt, Hostname: m.Hostname,
		ImageDigest: m.Image.Digest, ImagePin: m.ImagePin, ImageSize: m.Image.Size,
		MTU: n.MTU, Handoff: handoff,
		SeedURL: v.SeedURL(), NetworkConfig: network,
	}, nil
}

// cloudInit renders one of cloud-init's documents by its file name.
func (r renderer) cloudInit(name string, n *agent.Network, m *agent.Machine) (string, error) {
	v := r.values(n, m)
	switch name {
	case "meta-data":
		return cloudinit.MetaData(v), nil
	case "user-data":
		return cloudinit.RenderUserData(m.UserDataTemplate, v)
	case "vendor-data":
		return cloudinit.VendorData(v), nil
	case "network-config":
		return cloudinit.RenderNetworkConfig(m.NetworkConfigTemplate, v)
	}
	return "", fmt.Errorf("no document %q", name)
}
