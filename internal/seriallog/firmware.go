// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"regexp"
	"strings"
)

var pxeCode = regexp.MustCompile(`PXE-E([0-9A-Fa-f]{2})\b`)

// offerCodes explain the PXE codes (PXE 2.1, appendix) of the phase before a
// transfer.
var offerCodes = map[string]string{
	"11": "no machine answered the ARP request: is the machine attached to the lab network?",
	"16": "no valid DHCP offer came: is the provisioning server Ready, the machine attached to its network, and no other DHCP server there?",
	"51": "no DHCP or proxyDHCP offer came: is the provisioning server Ready, and the machine attached to its network?",
	"52": "the proxyDHCP offers have no address: does another DHCP server answer on the lab network?",
	"53": "the offer has no boot file: the server has no boot program for this machine's architecture",
	"55": "the proxyDHCP server did not answer: does another DHCP server answer on the lab network?",
	"61": "the network has no link: is the machine attached to the lab network?",
}

// transferCodes explain the PXE codes of a transfer.
var transferCodes = map[string]string{
	"12": "no machine answered the ARP request for the TFTP server's address",
	"18": "the TFTP server stopped answering: is the provisioning server overloaded, or does the network lose packets?",
	"21": "the TFTP server cannot be reached",
	"22": "the firmware ran out of memory for the network boot program: give the machine more memory",
	"23": "the TFTP server answered with an error: it has no such file, or it aborted the transfer",
	"32": "the TFTP server did not answer",
	"35": "the TFTP transfer timed out",
	"36": "the TFTP server answered with an error",
	"3b": "the TFTP server has no such file",
	"3f": "the TFTP server answered with a packet of another size",
	"99": "the transfer failed unexpectedly: see the provisioning server's log",
}

// noOffer finds the firmware's error that DHCP failed.
func noOffer(lines []string) (Finding, bool) {
	return firmwareError(lines, NoOffer, "the firmware's network boot failed", func(code string, addressed bool) string {
		if code == "18" && !addressed {
			return "no usable DHCP answer came: is the provisioning server Ready, and no other DHCP server on the network?"
		}
		return offerCodes[code]
	})
}

// transferFailed finds the firmware's error that TFTP or HTTP failed.
func transferFailed(lines []string) (Finding, bool) {
	const what = "the firmware could not fetch the network boot program"
	return firmwareError(lines, TransferFailed, what, func(code string, addressed bool) string {
		if code == "18" && !addressed {
			return ""
		}
		return transferCodes[code]
	})
}

// firmwareError finds the last PXE code, if explain returns a text for it.
// addressed is true if the firmware had an address by then: OVMF uses the same
// code for every missing response.
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

// overIPv4 returns the firmware's output from its last network boot over IPv4,
// or all lines if there was none. The boots over IPv6 and HTTP that follow it
// fail on every lab network.
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
		Kind: NothingToBoot,
		Explanation: "the firmware found nothing that it can boot: neither network nor disk has a boot program for this machine; " +
			"is the disk installed, and is the image for UEFI?",
		Lines: upTo(lines, at, 3),
	}, true
}
