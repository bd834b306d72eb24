// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package labnet

import "errors"

// jumboFrames is false: macOS limits a UNIX datagram to 2048 bytes.
const jumboFrames = false

func ensureTap(string, string, int) error {
	return errors.New("network mode Bridge is supported on Linux only; use Userspace or VMNetHost")
}

func removeTap(string) error { return nil }
