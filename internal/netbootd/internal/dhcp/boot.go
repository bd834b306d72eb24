// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// addBoot adds the boot file and the options that make network boot code load it
// without further discovery. If there is no boot file it adds nothing and records
// the reason.
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

	option := file
	if x.Stage == Firmware && !x.Arch.HTTP() && len(file) < 255 {
		// Some firmware reads the options as zero-terminated strings (Intel's ROMs), and
		// would take the next byte for a part of the name.
		option = file + "\x00"
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionTFTPServerName, []byte(server+"\x00")))
	}
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionBootfileName, []byte(option)))
	// Also in the header field, for ROMs that do not support option 67. It holds
	// 127 bytes and a terminating zero.
	if len(file) < 128 {
		m.BootFileName = file
	}

	vendor := string(x.req.Options.Get(dhcpv4.OptionClassIdentifier))
	switch {
	case x.Stage == IPXE:
		// Option 176 within option 175 skips the wait for a ProxyDHCP server. A
		// vendor class or option 43 would make iPXE discover PXE boot servers.
		m.UpdateOption(dhcpv4.OptGeneric(optIPXE, []byte{ipxeNoProxyDHCP, 1, 1}))
	case strings.HasPrefix(vendor, vendorHTTPClient):
		// UEFI specification, HTTP Boot: the vendor class identifies the offer,
		// the boot file is the URL.
		m.UpdateOption(dhcpv4.OptClassIdentifier(vendorHTTPClient))
	default:
		m.UpdateOption(dhcpv4.OptClassIdentifier(vendorPXEClient))
		// PXE discovery control 8: use the boot file of this message, without
		// boot server discovery or a menu.
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation,
			[]byte{pxeDiscoveryCtl, 1, pxeBootFileDirect, 255}))
		m.ServerHostName = server
	}
}

// bootFile returns the client's boot file, or the reason why there is none.
func (x *exchange) bootFile() (string, Reason) {
	switch {
	case !x.Known:
		return "", ReasonUnknownHost
	case x.Arch.Machine() == "":
		return "", ReasonArchitecture
	case x.host.BootFile == nil:
		return "", ReasonNothingToBoot
	case x.Stage == IPXE && isSet(addr(x.req.GatewayIPAddr)):
		return "", ReasonRelayed
	}
	file := x.host.BootFile(x.client)
	// An option holds 255 bytes, and most ROMs do not support split options.
	if file == "" || len(file) > 255 {
		return "", ReasonNothingToBoot
	}
	return file, ""
}
