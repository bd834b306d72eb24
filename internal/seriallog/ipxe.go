// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// An iPXE error is a 32-bit number: bits 30 to 24 are the POSIX error, 23 to 13
// the source file, 12 to 8 distinguish the errors in a file, 7 to 0 are the
// nearest code of the firmware. Only the POSIX error is the same in all builds.
// https://ipxe.org/err explains the full number.

// posix explains the POSIX errors in iPXE's numbering.
var posix = map[uint64]string{
	0x02: "access was denied: over TLS, the server's certificate is not trusted or has a wrong name or date; over HTTP, a login is required",
	0x04: "no address could be configured: no DHCP server answered; is the provisioning server Ready and the target on its network?",
	0x0b: "a key press cancelled it: press no key on the console while the machine boots",
	0x0d: "the server aborted the connection: see the server's log",
	0x0e: "the connection was refused: no server listens on that address and port",
	0x0f: "the connection was reset: no server listens on that address and port, or the server closed it; see the server's log",
	0x16: "the file is too large for the machine's memory: give the machine more memory",
	0x17: "the host cannot be reached: no machine answers the ARP request for its address",
	0x1c: "the script or its data is not valid: see the profile's iPXE template",
	0x1d: "a transfer failed, or the server answered with an error; see the server's log",
	0x26: "the network is down: is the machine attached to the lab network?",
	0x28: "the network cannot be reached: the machine has no address or no route to it",
	0x2a: "no memory was left for network buffers: give the machine more memory",
	0x2c: "the network device does not exist: does this iPXE have a driver for the card?",
	0x2d: "it was not found: the server has no such file (HTTP 404, TFTP file not found)",
	0x2e: "it cannot be executed: the file is not a kernel or script for this architecture; see the profile's kernel",
	0x31: "the machine ran out of memory: give it more memory, or use a smaller initrd",
	0x34: "no space is left: give the machine more memory",
	0x38: "it is not connected: the link is down, or the connection was closed too early; is the machine attached to the lab network?",
	0x3c: "this iPXE does not support it: use a build with support for the protocol or image format",
	0x3e: "the host or device does not exist: the name could not be resolved, or iPXE has no driver for the card",
	0x3f: "this iPXE does not support it: use a build with support for the protocol or image format",
	0x41: "it is not permitted: over TLS, the server's certificate was not accepted",
	0x43: "the answer is invalid: does the server use another protocol on that port?",
	0x4c: "it timed out: no server answered; is the provisioning server Ready, and is the address correct?",
}

var (
	ipxeURL = regexp.MustCompile(`https?://ipxe\.org/([0-9a-fA-F]{8})\b`)
	// ipxeStep matches the lab script's message about a failed step. iPXE prints
	// the number without leading zeros.
	ipxeStep = regexp.MustCompile(`pxelab: step (\w{1,20}) failed: error (?:0x)?([0-9a-fA-F]{1,8})\b`)
)

// ipxeError finds the last of iPXE's errors. It ignores autoexec.ipxe, which
// iPXE requests without need.
func ipxeError(lines []string) (Finding, bool) {
	at := last(lines, func(l string) bool {
		return ipxeStep.MatchString(l) || ipxeURL.MatchString(l) && !strings.Contains(l, "autoexec.ipxe")
	})
	if at < 0 {
		return Finding{}, false
	}
	what, code := "iPXE failed", ""
	if m := ipxeStep.FindStringSubmatch(lines[at]); m != nil {
		what, code = fmt.Sprintf("iPXE failed at its step %q", m[1]), m[2]
	} else {
		code = ipxeURL.FindStringSubmatch(lines[at])[1]
	}
	return Finding{
		Kind:        IPXEError,
		Explanation: what + ": " + explainIPXE(code),
		Lines:       upTo(lines, at, 2),
	}, true
}

// explainIPXE explains an error code in hexadecimal digits.
func explainIPXE(code string) string {
	n, err := strconv.ParseUint(code, 16, 32)
	if err != nil {
		return "error " + code
	}
	url := fmt.Sprintf("https://ipxe.org/%08x", n)
	if text, known := posix[n>>24&0x7f]; known {
		return text + " (" + url + ")"
	}
	return url + " explains its error"
}
