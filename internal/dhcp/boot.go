// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// addBoot tells network boot code what to load, and leads it there without
// detours. Without anything to load it adds nothing, and says why.
func (x *exchange) addBoot(m *dhcpv4.DHCPv4) {
	file, why := x.bootFile()
	if x.Reason == "" {
		x.Reason = why
	}
	if file == "" {
		return
	}
	x.BootFile = file
	server := x.r.cfg.ServerAddr.String()

	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionBootfileName, []byte(file)))
	// The header's field as well, for ROMs that do not know option 67. It holds
	// 127 bytes and a zero.
	if len(file) < 128 {
		m.BootFileName = file
	}

	vendor := string(x.req.Options.Get(dhcpv4.OptionClassIdentifier))
	switch {
	case x.Stage == IPXE:
		// Option 176 inside 175: do not wait for a ProxyDHCP server. Neither
		// vendor class nor option 43: they make iPXE look for PXE boot servers.
		m.UpdateOption(dhcpv4.OptGeneric(optIPXE, []byte{ipxeNoProxyDHCP, 1, 1}))
	case strings.HasPrefix(vendor, vendorHTTPClient):
		// The UEFI specification, HTTP Boot: the class marks the offer, the URL
		// is the boot file.
		m.UpdateOption(dhcpv4.OptClassIdentifier(vendorHTTPClient))
	default:
		m.UpdateOption(dhcpv4.OptClassIdentifier(vendorPXEClient))
		// PXE discovery control 8: take the boot file named here, ask no boot
		// server, show no menu.
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation,
			[]byte{pxeDiscoveryCtl, 1, pxeBootFileDirect, 255}))
		m.UpdateOption(dhcpv4.OptTFTPServerName(server))
		m.ServerHostName = server
	}
}

// bootFile is what the client should boot, or why it boots nothing.
func (x *exchange) bootFile() (string, Reason) {
	switch {
	case !x.Known:
		return "", ReasonUnknownHost
	case x.Arch.Machine() == "":
		return "", ReasonArchitecture
	case x.host.BootFile == nil:
		return "", ReasonNothingToBoot
	}
	file := x.host.BootFile(x.client)
	// An option holds 255 bytes; a longer one in two parts is beyond most ROMs.
	if file == "" || len(file) > 255 {
		return "", ReasonNothingToBoot
	}
	return file, ""
}
