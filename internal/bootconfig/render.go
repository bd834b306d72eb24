// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pxelab/pxelab/internal/bootconfig/cloudinit"
	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Input is what the files of one machine are rendered from. It is not modified.
type Input struct {
	Network *netbootapi.Network
	Machine *netbootapi.Machine
	Texts   Texts
}

// Texts are the texts that the blobs of a machine's content name.
type Texts struct {
	// IPXE, UserData and NetworkConfig are templates; an empty one selects the default.
	IPXE, UserData, NetworkConfig string
	// SSHKeys are the SSH public keys that may log in, one per line.
	SSHKeys string
}

// keysOf returns the lines of text that are not blank.
func keysOf(text string) []string {
	var keys []string
	for line := range strings.Lines(text) {
		if key := strings.TrimSpace(line); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// Renderer renders the files that machines fetch from their config. It is pure
// and safe for concurrent use. Its methods return the error of ctx if ctx is
// cancelled while a template is rendered.
type Renderer struct {
	// Port of the HTTP server on the lab address.
	Port uint16
}

// serverURL returns "http://ADDRESS/", with the port unless it is 80.
func (r Renderer) serverURL(n *netbootapi.Network) string {
	host := n.Address.Addr().String()
	if r.Port != 80 {
		host += ":" + strconv.Itoa(int(r.Port))
	}
	return "http://" + host + "/"
}

// bootURL returns the base URL of the files from which m is installed, which contains the
// boot secret, and seedURL that of its cloud-init data, which contains the seed secret.
func (r Renderer) bootURL(n *netbootapi.Network, m *netbootapi.Machine) string {
	return r.serverURL(n) + "m/" + m.Token + "/"
}

func (r Renderer) seedURL(n *netbootapi.Network, m *netbootapi.Machine) string {
	return r.serverURL(n) + "m/" + m.SeedToken + "/"
}

// ScriptURL returns the URL of the iPXE script of a decision that has a machine. It
// contains the boot secret only while the machine may be installed.
func (r Renderer) ScriptURL(n *netbootapi.Network, d policy.Decision) string {
	if d.Action == policy.ActionDisk {
		return r.serverURL(n) + "boot.ipxe"
	}
	return r.bootURL(n, d.Machine) + "boot.ipxe"
}

// ProgramURL returns the URL of a network boot program.
func (r Renderer) ProgramURL(n *netbootapi.Network, p *netbootapi.Program) string {
	return r.serverURL(n) + "program/" + p.Name
}

func gateway(n *netbootapi.Network) string {
	if n.NAT {
		return n.Address.Addr().String()
	}
	return ""
}

// values returns the values of cloud-init's templates, which have no boot secret: they
// reach the installed system.
func (r Renderer) values(in Input) cloudinit.Values {
	n, m := in.Network, in.Machine
	v := cloudinit.Values{
		Name: m.Name, Hostname: m.Hostname, InstanceID: m.InstanceID, Architecture: m.Architecture,
		MAC: m.MAC, Address: m.Address.String(), PrefixLength: n.Address.Bits(),
		Gateway: gateway(n), Domain: n.Domain, MTU: n.MTU,
		ServerAddress: n.Address.Addr().String(), ServerURL: r.serverURL(n), BaseURL: r.seedURL(n, m), SeedBaseURL: r.seedURL(n, m),
		SSHUser: m.SSHUser, SSHAuthorizedKeys: keysOf(in.Texts.SSHKeys), Parameters: m.Parameters,
	}
	for _, a := range n.NameServers() {
		v.DNS = append(v.DNS, a.String())
	}
	return v
}

func (r Renderer) install(in Input) ipxe.Install {
	n, m := in.Network, in.Machine
	return ipxe.Install{
		Name: m.Name, BaseURL: r.bootURL(n, m), Architecture: m.Architecture,
		InitPath: installerapi.InitPath, URLArg: installerapi.ArgURL, NetArg: installerapi.ArgNet,
		PrefixLength: n.Address.Bits(), Gateway: gateway(n), MTU: n.MTU,
		KernelArgs: m.KernelArgs, OverlaySize: m.Overlay.Size,
	}
}

// scriptData holds the values of an iPXE template.
type scriptData struct {
	cloudinit.Values
	// KernelURL, InitrdURL and OverlayURL locate the files. CommandLine is the
	// kernel command line of the default script, whose images are named
	// "initrd" and "overlay".
	KernelURL, InitrdURL, OverlayURL string
	CommandLine                      string
}

// Script returns the iPXE script for a decision. It fails when the iPXE template
// of m does not render or renders something that is not an iPXE script.
func (r Renderer) Script(ctx context.Context, in Input, d policy.Decision) (string, error) {
	n, m := in.Network, in.Machine
	switch d.Action {
	case policy.ActionDisk, policy.ActionNone:
		// A machine in iPXE that is offered nothing also continues with its disk:
		// there is nothing to wait for.
		return ipxe.Disk(m.Name), nil
	case policy.ActionWait:
		return ipxe.Wait(r.bootURL(n, m), d.Message), nil
	}
	i := r.install(in)
	if in.Texts.IPXE == "" {
		return i.Script()
	}
	line, err := i.CommandLine()
	if err != nil {
		return "", err
	}
	base := i.BaseURL
	values := r.values(in)
	values.BaseURL = base
	out, err := cloudinit.RenderTemplate(ctx, "ipxe", in.Texts.IPXE, scriptData{
		Values: values, CommandLine: line,
		KernelURL: base + "kernel", InitrdURL: base + "initrd", OverlayURL: base + "overlay",
	})
	if err != nil {
		return "", err
	}
	return out, ipxe.CheckScript(out)
}

// InstallPlan returns the plan for the installer. It fails when the network
// configuration or the user-data of m does not render.
func (r Renderer) InstallPlan(ctx context.Context, in Input) (installerapi.Plan, error) {
	v := r.values(in)
	network, err := cloudinit.RenderNetworkConfig(ctx, in.Texts.NetworkConfig, v)
	if err != nil {
		return installerapi.Plan{}, err
	}
	// With invalid user-data the first boot of the installed system would fail,
	// so fail before the installation.
	if _, err := cloudinit.RenderUserData(ctx, in.Texts.UserData, v); err != nil {
		return installerapi.Plan{}, err
	}
	m := in.Machine
	handoff := m.Handoff
	if handoff == "" {
		handoff = "Reset"
	}
	return installerapi.Plan{
		Attempt: m.Attempt, Hostname: m.Hostname,
		ImageDigest: m.Image.Digest, ImagePin: m.ImagePin, ImageSize: m.Image.Size,
		MTU: in.Network.MTU, Handoff: handoff,
		SeedURL: v.SeedURL(), NetworkConfig: network,
		RootDisk: m.RootDisk, Root: m.Root, Cleaning: m.Cleaning,
	}, nil
}

// CloudInit renders the cloud-init file called name: meta-data, user-data,
// vendor-data or network-config. Any other name is an error.
func (r Renderer) CloudInit(ctx context.Context, name string, in Input) (string, error) {
	v := r.values(in)
	switch name {
	case "meta-data":
		return cloudinit.MetaData(v), nil
	case "user-data":
		return cloudinit.RenderUserData(ctx, in.Texts.UserData, v)
	case "vendor-data":
		return cloudinit.VendorData(v), nil
	case "network-config":
		return cloudinit.RenderNetworkConfig(ctx, in.Texts.NetworkConfig, v)
	}
	return "", fmt.Errorf("unknown cloud-init file %q", name)
}
