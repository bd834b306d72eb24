// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"fmt"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	optOverload = 52
	optEnd      = 255
)

// Places of the header fields that may hold options.
const (
	serverNameAt = 44
	fileAt       = 108
	cookieAt     = 236
)

// parse decodes a request. It accepts what the codec does not: options without an end
// option, and options in the header fields for the file and the server name (RFC 2132,
// section 9.3), which follow those of the options field in this order (RFC 3396, section 5).
func parse(packet []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(append(slices.Clip(packet), optEnd))
	if err != nil {
		return nil, err
	}
	overload := m.Options[optOverload]
	for _, field := range []struct {
		used byte
		raw  []byte
	}{{1, packet[fileAt:cookieAt]}, {2, packet[serverNameAt:fileAt]}} {
		if len(overload) != 1 || overload[0]&field.used == 0 {
			continue
		}
		if err := m.Options.FromBytes(field.raw); err != nil {
			return nil, fmt.Errorf("options in a header field: %w", err)
		}
	}
	// Also one that stands in a header field, where it means nothing.
	delete(m.Options, optOverload)
	return m, nil
}
