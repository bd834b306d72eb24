// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package landlock

// Version returns 0: this platform has no such restriction.
func Version() int { return 0 }

// Start calls start.
func Start(_ Policy, start func() error) error { return start() }
