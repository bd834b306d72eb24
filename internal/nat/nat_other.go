// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package nat

import (
	"errors"
	"fmt"
	"net/netip"
)

var errPlatform = fmt.Errorf("NAT: %w on this system", errors.ErrUnsupported)

// Ensure needs Linux.
func Ensure(netip.Prefix) error { return errPlatform }

// Remove needs Linux.
func Remove() error { return errPlatform }

// UplinkResolvers needs Linux.
func UplinkResolvers() []netip.Addr { return nil }
