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
	user := req.Options.Get(dhcpv4.OptionUserClassInformation)
	switch {
	case hasUserClass(user, userClassIPXE), len(req.Options.Get(optIPXE)) > 0:
		c.Stage = IPXE
	case strings.HasPrefix(vendor, vendorPXEClient), strings.HasPrefix(vendor, vendorHTTPClient):
		c.Stage = Firmware
	}
	if list := req.Options.Get(optClientArch); len(list) >= 2 {
		c.Arch = archOf(list)
	} else if c.Stage != OS {
		c.Arch = archFromVendor(vendor)
	}
	if c.Stage == Firmware {
		c.Arch = c.Arch.by(strings.HasPrefix(vendor, vendorHTTPClient))
	}
	return c
}

// hasUserClass reports whether option 77 contains a class. iPXE sends it as it is, others
// as a list of classes with their lengths (RFC 3004); some terminate it with a zero.
func hasUserClass(b []byte, class string) bool {
	isClass := func(b []byte) bool { return strings.TrimRight(string(b), "\x00") == class }
	if isClass(b) {
		return true
	}
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n > len(b)-1 {
			return false
		}
		if isClass(b[1 : 1+n]) {
			return true
		}
		b = b[1+n:]
	}
	return false
}

// archOf returns the first architecture of a list of at least one that can be booted; the
// first of all if there is none. RFC 4578, section 2.1, lets a client send several.
func archOf(list []byte) Arch {
	for at := 0; at+2 <= len(list); at += 2 {
		if a := Arch(binary.BigEndian.Uint16(list[at:])); a.Machine() != "" {
			return a
		}
	}
	return Arch(binary.BigEndian.Uint16(list))
}

// by returns the architecture of the same machine that boots by HTTP, or by TFTP: the
// vendor class decides how firmware fetches its boot file, and some firmware sends the
// architecture of the other way.
func (a Arch) by(http bool) Arch {
	switch {
	case a.HTTP() == http:
	case a.Machine() == machineX8664 && http:
		return ArchEFIX8664HTTP
	case a.Machine() == machineX8664:
		return ArchEFIX8664
	case a.Machine() == machineAArch64 && http:
		return ArchEFIARM64HTTP
	case a.Machine() == machineAArch64:
		return ArchEFIARM64
	}
	return a
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
