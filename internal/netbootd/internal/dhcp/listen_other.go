// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package dhcp

import "errors"

// Listen always fails: only Linux can answer clients that have no address yet.
func Listen(string) (Conn, error) {
	return nil, errors.New("serving DHCP requires Linux packet sockets; run netbootd on Linux")
}

// NewARPProber always fails: it is implemented for Linux only.
func NewARPProber(string) (Prober, error) {
	return nil, errors.New("probing addresses requires Linux packet sockets; run netbootd on Linux")
}
