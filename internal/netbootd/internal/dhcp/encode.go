// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	// minMessage is the size of a BOOTP message: older clients drop shorter
	// ones.
	minMessage = 300
	// defaultMaxMessage is the size of the IP packet that every client must
	// accept (RFC 2131 section 2).
	defaultMaxMessage = 576
	ipUDPHeaders      = 28
	// fixedPart is the size of the header including the magic cookie.
	fixedPart = 240
)

// first lists the options that come first, in the order that network boot ROMs
// expect: some read only the beginning. All others follow by number.
var first = []uint8{53, 54, 51, 58, 59, 1, 3, 60, 97, 43, 66, 67, 175, 6, 26, 28}

// expendable lists the options that are omitted, in this order, from a reply that
// exceeds the client's limit.
var expendable = []uint8{42, 15, 6, 12, 28, 26, 66}

const optRelayAgent = 82

// encode serializes a message: options ordered, relay agent information last (RFC
// 3046), padded to the size of a BOOTP message. It omits expendable options to
// stay within limit bytes.
func encode(m *dhcpv4.DHCPv4, limit int) []byte {
	head := *m
	head.Options = dhcpv4.Options{}
	out := head.ToBytes()[:fixedPart]

	options := dhcpv4.Options{}
	for code, value := range m.Options {
		options[code] = value
	}
	for _, code := range expendable {
		if fixedPart+optionsSize(options) <= limit {
			break
		}
		delete(options, code)
	}
	for _, code := range first {
		out = appendOption(out, options, code)
	}
	var rest []uint8
	for code := range options {
		if code != optRelayAgent && !slices.Contains(first, code) {
			rest = append(rest, code)
		}
	}
	slices.Sort(rest)
	for _, code := range append(rest, optRelayAgent) {
		out = appendOption(out, options, code)
	}
	out = append(out, 255)
	if len(out) < minMessage {
		out = append(out, make([]byte, minMessage-len(out))...)
	}
	return out
}

// appendOption appends an option if it is set, splitting values longer than 255
// bytes (RFC 3396).
func appendOption(out []byte, options dhcpv4.Options, code uint8) []byte {
	value, ok := options[code]
	for ok {
		n := min(len(value), 255)
		out = append(append(out, code, byte(n)), value[:n]...)
		value = value[n:]
		ok = len(value) > 0
	}
	return out
}

func optionsSize(options dhcpv4.Options) int {
	size := 1
	for _, value := range options {
		size += len(value) + 2*max(1, (len(value)+254)/255)
	}
	return size
}

// messageLimit returns the largest DHCP message that the client accepts, capped
// to one Ethernet frame.
func messageLimit(req *dhcpv4.DHCPv4) int {
	limit := defaultMaxMessage
	if b := req.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(b) == 2 {
		limit = max(limit, min(int(b[0])<<8|int(b[1]), 1500))
	}
	return limit - ipUDPHeaders
}
