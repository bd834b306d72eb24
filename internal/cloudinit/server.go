// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
)

// Names of the files that the provisioning VM's seed carries beside the
// documents of this package.
const (
	SeedBinary    = "netbootd"
	SeedUnit      = "netbootd.service"
	SeedCA        = "ca.crt"
	SeedServerCrt = "server.crt"
	SeedServerKey = "server.key"
)

// ServerOptions describe the provisioning VM's seed.
type ServerOptions struct {
	InstanceID string
	Hostname   string
	// SSHUser gets an account with the keys; empty for none.
	SSHUser           string
	SSHAuthorizedKeys []string
	// SSHHostKey is the VM's own key (Ed25519, OpenSSH's private form), so that
	// who logs in knows it beforehand; empty lets the VM make its own.
	SSHHostKey []byte
	// UplinkMAC and LabMAC tell the two NICs.
	UplinkMAC string
	LabMAC    string
	// LabAddress is the static address with the lab's prefix length.
	LabAddress netip.Prefix
	// LabMTU is 0 to leave it to the driver.
	LabMTU int
}

// installScript runs at every boot, before the network is up.
//
//go:embed install.sh
var installScript string

// ServerUserData is the provisioning VM's user-data: it installs netbootd from
// the seed and starts it without waiting for anything else. It needs a stock
// cloud image with systemd, and no package.
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

// ServerMetaData is its meta-data. The mode "local" has cloud-init run bootcmd
// in its first stage, which does not wait for the network: of a boot under
// emulation that saves many seconds.
func ServerMetaData(o ServerOptions) string {
	return marshal("", struct {
		InstanceID string `yaml:"instance-id"`
		Hostname   string `yaml:"local-hostname"`
		Mode       string `yaml:"dsmode"`
	}{o.InstanceID, o.Hostname, "local"})
}

// ServerNetworkConfig is its network configuration: the uplink by DHCP, the
// lab with its static address, no route and nothing that boot waits for.
func ServerNetworkConfig(o ServerOptions) (string, error) {
	if !o.LabAddress.IsValid() || !o.LabAddress.Addr().Is4() {
		return "", fmt.Errorf("the lab address %q is no IPv4 address with a prefix length", o.LabAddress)
	}
	if strings.EqualFold(o.UplinkMAC, o.LabMAC) || o.UplinkMAC == "" || o.LabMAC == "" {
		return "", fmt.Errorf("uplink and lab NIC need MAC addresses of their own, have %q and %q", o.UplinkMAC, o.LabMAC)
	}
	off := false
	uplink := ethernet{DHCP4: true, AcceptRA: &off}
	uplink.Match.MAC = strings.ToLower(o.UplinkMAC)
	lab := ethernet{AcceptRA: &off, Addresses: []string{o.LabAddress.String()}, MTU: o.LabMTU, Optional: true}
	lab.Match.MAC = strings.ToLower(o.LabMAC)
	return marshal("", networkConfig{Version: 2, Ethernets: map[string]ethernet{"uplink": uplink, "lab": lab}}), nil
}
