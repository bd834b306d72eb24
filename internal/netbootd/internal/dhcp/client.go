// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options that the codec does not name, or that are used as raw bytes here.
const (
	optClientArch  = dhcpv4.GenericOptionCode(93)
	optMachineUUID = dhcpv4.GenericOptionCode(97)
	optIPXE        = dhcpv4.GenericOptionCode(175)
)

// identify describes the program and the machine that sent a request.
func identify(req *dhcpv4.DHCPv4) Client {
	vendor := string(req.Options.Get(dhcpv4.OptionClassIdentifier))
	c := Client{
		MAC:   append([]byte(nil), req.ClientHWAddr...),
		Stage: OS,
		Arch:  archAbsent,
		UUID:  machineUUID(req.Options.Get(optMachineUUID)),
	}
	// iPXE sends its user class without the length byte of RFC 3004; other
	// clients include it.
	user := string(req.Options.Get(dhcpv4.OptionUserClassInformation))
	switch {
	case user == userClassIPXE, user == "\x04"+userClassIPXE, len(req.Options.Get(optIPXE)) > 0:
		c.Stage = IPXE
	case strings.HasPrefix(vendor, vendorPXEClient), strings.HasPrefix(vendor, vendorHTTPClient):
		c.Stage = Firmware
	}
	if arch := req.Options.Get(optClientArch); len(arch) >= 2 {
		c.Arch = Arch(binary.BigEndian.Uint16(arch))
	} else if c.Stage != OS {
		c.Arch = archFromVendor(vendor)
	}
	return c
}

// archFromVendor parses "PXEClient:Arch:00007:UNDI:003000", for firmware that
// does not send option 93.
func archFromVendor(vendor string) Arch {
	fields := strings.Split(vendor, ":")
	if len(fields) < 3 || fields[1] != "Arch" {
		return archAbsent
	}
	var n uint16
	if _, err := fmt.Sscanf(fields[2], "%05d", &n); err != nil {
		return archAbsent
	}
	return Arch(n)
}

// machineUUID formats option 97 as text. Its first three fields are
// little-endian, as in SMBIOS (RFC 4578 section 2.3, type 0).
func machineUUID(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	b = b[1:]
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x",
		binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:])
}

// hostname returns the client's host name (option 12), or "" if it is not a valid
// name, because it is shown in status and logs.
func hostname(req *dhcpv4.DHCPv4) string {
	name := strings.TrimRight(string(req.Options.Get(dhcpv4.OptionHostName)), "\x00")
	if len(name) > 253 {
		return ""
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_' {
			return ""
		}
	}
	return name
}
