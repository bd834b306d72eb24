// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netbootd

import "net"

// adaptToLoss does nothing: it requires Linux.
func adaptToLoss(net.Conn) (settled bool) { return true }
