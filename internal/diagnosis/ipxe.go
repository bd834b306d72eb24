// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// An iPXE error is a number of 32 bits: bits 30 to 24 are the POSIX error, 23
// to 13 the source file, 12 to 8 which one of the file's, 7 to 0 the nearest
// code of the firmware. The POSIX error alone is the same in all builds.
// https://ipxe.org/err explains the whole.

// posix explains iPXE's numbering of POSIX errors.
var posix = map[uint64]string{
	0x02: "access was denied: over TLS, the server's certificate is not trusted or has another name or date; over HTTP, a login is needed",
	0x04: "no address could be configured: no DHCP server answered; is the provisioning server Ready and the target on its network?",
	0x0b: "it was cancelled by a key: leave the console alone while it boots",
	0x0d: "the server aborted the connection: see the server's log",
	0x0e: "the connection was refused: nothing listens at that address and port",
	0x0f: "the connection was reset: nothing listens at that address and port, or the server closed it; see the server's log",
	0x16: "the file is too large for the machine's memory: give the machine more memory",
	0x17: "the host cannot be reached: nobody answers for its address",
	0x1c: "the script or its data is not valid: see the profile's iPXE template",
	0x1d: "a transfer failed, or the server answered with an error; see the server's log",
	0x26: "the network is down: is the machine attached to the lab network?",
	0x28: "the network cannot be reached: the machine has no address or no route to it",
	0x2a: "there is no memory for the network's buffers: give the machine more memory",
	0x2c: "there is no such network device: does this iPXE have a driver for the card?",
	0x2d: "it was not found: the server has no such file (HTTP 404, TFTP file not found)",
	0x2e: "it cannot be executed: the file is no kernel or script for this architecture; see the profile's kernel",
	0x31: "the machine ran out of memory: give it more, or use a smaller initrd",
	0x34: "there is no space left: give the machine more memory",
	0x38: "there is no connection: the link is down, or it was closed before all was sent; is the machine attached to the lab network?",
	0x3c: "this iPXE does not support it: take a build that has the protocol or image format",
	0x3e: "there is no such host or device: the name could not be resolved, or there is no driver for the card",
	0x3f: "this iPXE does not support it: take a build that has the protocol or image format",
	0x41: "it is not permitted: over TLS, the server's certificate was not accepted",
	0x43: "the answer was not understood: what serves there speaks another protocol",
	0x4c: "it timed out: nobody answered; is the provisioning server Ready, and the address right?",
}

var (
	ipxeURL = regexp.MustCompile(`https?://ipxe\.org/([0-9a-fA-F]{8})\b`)
	// ipxeStep is what the lab's script prints of a failed step. iPXE prints its
	// number without leading zeros.
	ipxeStep = regexp.MustCompile(`pxelab: step (\w{1,20}) failed: error (?:0x)?([0-9a-fA-F]{1,8})\b`)
)

// ipxeError finds the last of iPXE's errors. The file that iPXE asks for on
// its own account is no loss when it is not there.
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

// explainIPXE says what an error code in hexadecimal digits means.
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
