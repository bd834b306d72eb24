// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
)

// Names of the files in the provisioning VM's seed, in addition to the documents
// of this package.
const (
	SeedBinary    = "netbootd"
	SeedUnit      = "netbootd.service"
	SeedCA        = "ca.crt"
	SeedServerCrt = "server.crt"
	SeedServerKey = "server.key"
)

// ServerOptions are the parameters of the provisioning VM's seed.
type ServerOptions struct {
	InstanceID string
	Hostname   string
	// SSHUser is the account that gets the authorized keys; empty for none.
	SSHUser           string
	SSHAuthorizedKeys []string
	// SSHHostKey is the VM's host key (Ed25519, in OpenSSH's private key format),
	// so that SSH clients know it in advance; empty lets the VM generate one.
	SSHHostKey []byte
	// UplinkMAC and LabMAC identify the two NICs.
	UplinkMAC string
	LabMAC    string
	// LabAddress is the static address with the lab's prefix length.
	LabAddress netip.Prefix
	// LabMTU is 0 to keep the driver's default.
	LabMTU int
}

// installScript runs at every boot, before the network is up.
//
//go:embed install.sh
var installScript string

// ServerUserData returns the provisioning VM's user-data, which installs
// netbootd from the seed and starts it without waiting for other units. It works
// with a stock cloud image with systemd and installs no packages.
func ServerUserData(o ServerOptions) string {
	doc := struct {
		Bootcmd        []string          `yaml:"bootcmd"`
		ManageEtcHosts string            `yaml:"manage_etc_hosts"`
		PasswordLogin  bool              `yaml:"ssh_pwauth"`
		Users          []any             `yaml:"users"`
		SSHKeys        map[string]string `yaml:"ssh_keys,omitempty"`
	}{
		Bootcmd:        []string{installScript},
		ManageEtcHosts: "localhost",
		Users:          []any{"default"},
	}
	if len(o.SSHHostKey) > 0 {
		doc.SSHKeys = map[string]string{"ed25519_private": string(o.SSHHostKey)}
	}
	if o.SSHUser != "" {
		doc.Users = append(doc.Users, account(Values{SSHUser: o.SSHUser, SSHAuthorizedKeys: o.SSHAuthorizedKeys}))
	}
	return marshal("#cloud-config\n", doc)
}

// ServerMetaData returns the provisioning VM's meta-data. With dsmode "local",
// cloud-init runs bootcmd in its first stage, which does not wait for the
// network. That saves many seconds in an emulated VM.
func ServerMetaData(o ServerOptions) string {
	return marshal("", struct {
		InstanceID string `yaml:"instance-id"`
		Hostname   string `yaml:"local-hostname"`
		Mode       string `yaml:"dsmode"`
	}{o.InstanceID, o.Hostname, "local"})
}

// ServerNetworkConfig returns the provisioning VM's network configuration: the
// uplink by DHCP, the lab with a static address and no routes. Boot does not
// wait for the lab.
func ServerNetworkConfig(o ServerOptions) (string, error) {
	if !o.LabAddress.IsValid() || !o.LabAddress.Addr().Is4() {
		return "", fmt.Errorf("lab address %q is not an IPv4 address with a prefix length", o.LabAddress)
	}
	if strings.EqualFold(o.UplinkMAC, o.LabMAC) || o.UplinkMAC == "" || o.LabMAC == "" {
		return "", fmt.Errorf("uplink and lab NIC need different MAC addresses, have %q and %q", o.UplinkMAC, o.LabMAC)
	}
	off := false
	uplink := ethernet{DHCP4: true, AcceptRA: &off}
	uplink.Match.MAC = strings.ToLower(o.UplinkMAC)
	lab := ethernet{AcceptRA: &off, Addresses: []string{o.LabAddress.String()}, MTU: o.LabMTU, Optional: true}
	lab.Match.MAC = strings.ToLower(o.LabMAC)
	return marshal("", networkConfig{Version: 2, Ethernets: map[string]ethernet{"uplink": uplink, "lab": lab}}), nil
}
