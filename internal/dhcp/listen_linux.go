// SPDX-License-Identifier: Apache-2.0

package dhcp

import "errors"

// Listen opens the server's port on one interface.
func Listen(iface string) (Conn, error) { return nil, errors.ErrUnsupported }

// NewARPProber probes on an interface.
func NewARPProber(iface string) (Prober, error) { return nil, errors.ErrUnsupported }
