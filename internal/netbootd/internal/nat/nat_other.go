// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package nat

import (
	"errors"
	"fmt"
	"net/netip"
)

var errPlatform = fmt.Errorf("configuring NAT: %w on this system; run netbootd on Linux", errors.ErrUnsupported)

// Ensure is implemented on Linux only.
func Ensure(netip.Prefix) error { return errPlatform }

// Remove is implemented on Linux only.
func Remove() error { return errPlatform }

// UplinkResolvers is implemented on Linux only.
func UplinkResolvers() []netip.Addr { return nil }
