// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"regexp"
	"strings"
)

var pxeCode = regexp.MustCompile(`PXE-E([0-9A-Fa-f]{2})\b`)

// offerCodes are the PXE codes (PXE 2.1, appendix) of what comes before a
// transfer; all others are about transfers.
var offerCodes = map[string]string{
	"11": "nobody answered ARP: is the machine attached to the lab network?",
	"16": "no valid DHCP offer came: is the provisioning server Ready, the machine attached to its network, and no other DHCP server there?",
	"51": "no DHCP or proxyDHCP offer came: is the provisioning server Ready, and the machine attached to its network?",
	"52": "the proxyDHCP offers came without an address: does another DHCP server answer on the lab network?",
	"53": "the offer named no boot file: the server knows no boot program for this machine's architecture",
	"55": "the proxyDHCP server did not answer: does another DHCP server answer on the lab network?",
	"61": "the network has no link: is the machine attached to the lab network?",
}

var transferCodes = map[string]string{
	"12": "nobody answered for the TFTP server's address",
	"18": "the TFTP server stopped answering: is the provisioning server overloaded or the network losing packets?",
	"21": "the TFTP server cannot be reached",
	"22": "the firmware ran out of memory for the network boot program: give the machine more",
	"23": "the TFTP server answered with an error: it has no such file, or gave up",
	"32": "the TFTP server did not answer",
	"35": "the TFTP transfer timed out",
	"36": "the TFTP server answered with an error",
	"3b": "the TFTP server has no such file",
	"3f": "the TFTP server answered with a packet of another size",
	"99": "the transfer failed unexpectedly: see the provisioning server's log",
}

// noOffer finds the firmware's word that DHCP came to nothing.
func noOffer(lines []string) (Finding, bool) {
	return firmwareError(lines, NoOffer, "the firmware's network boot failed", func(code string, addressed bool) string {
		if code == "18" && !addressed {
			return "no DHCP answer came that it could use: is the provisioning server Ready, and no other DHCP server on the network?"
		}
		return offerCodes[code]
	})
}

// transferFailed finds the firmware's word that TFTP or HTTP failed.
func transferFailed(lines []string) (Finding, bool) {
	return firmwareError(lines, TransferFailed, "the firmware did not get the network boot program", func(code string, addressed bool) string {
		if code == "18" && !addressed {
			return ""
		}
		return transferCodes[code]
	})
}

// firmwareError finds the last PXE code, if explain knows it. addressed says
// whether the firmware had an address by then: OVMF uses one code for all that
// is not answered.
func firmwareError(lines []string, kind Kind, what string, explain func(code string, addressed bool) string) (Finding, bool) {
	lines = overIPv4(lines)
	at := last(lines, pxeCode.MatchString)
	if at < 0 {
		return Finding{}, false
	}
	addressed := last(lines[:at], func(l string) bool { return strings.Contains(l, "Station IP address") }) >= 0
	text := explain(strings.ToLower(pxeCode.FindStringSubmatch(lines[at])[1]), addressed)
	if text == "" {
		return Finding{}, false // of another kind
	}
	return Finding{Kind: kind, Explanation: what + ": " + text, Lines: upTo(lines, at, 3)}, true
}

// overIPv4 is what firmware said of its last network boot over IPv4, if it
// tried one: those over IPv6 and HTTP that follow fail on every lab network.
func overIPv4(lines []string) []string {
	at := last(lines, func(l string) bool { return strings.Contains(l, ">>Start PXE over IPv4") })
	if at < 0 {
		return lines
	}
	for i, l := range lines[at+1:] {
		if strings.Contains(l, ">>Start ") {
			return lines[at : at+1+i]
		}
	}
	return lines[at:]
}

// nothingToBoot finds firmware that ended in its menu or shell.
func nothingToBoot(lines []string) (Finding, bool) {
	at := last(lines, func(l string) bool {
		return strings.Contains(l, "BdsDxe: No bootable option") || strings.HasPrefix(l, "Shell>") ||
			strings.Contains(l, "UEFI Interactive Shell")
	})
	if at < 0 {
		return Finding{}, false
	}
	return Finding{
		Kind:        NothingToBoot,
		Explanation: "the firmware found nothing that it can boot: neither network nor disk has a boot program for this machine; is the disk installed, and the image for UEFI?",
		Lines:       upTo(lines, at, 3),
	}, true
}
