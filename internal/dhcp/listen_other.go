// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package dhcp

import "errors"

// Listen opens the server's port on one interface. Only Linux can answer
// clients that have no address yet, so elsewhere it fails.
func Listen(string) (Conn, error) {
	return nil, errors.New("serving DHCP needs Linux packet sockets; run netbootd on Linux")
}

// NewARPProber probes on an interface. Only Linux has it.
func NewARPProber(string) (Prober, error) {
	return nil, errors.New("probing addresses needs Linux packet sockets; run netbootd on Linux")
}
