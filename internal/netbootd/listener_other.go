// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netbootd

import "syscall"

// deferAccept does nothing: netbootd serves on Linux only.
func deferAccept(string, string, syscall.RawConn) error { return nil }
