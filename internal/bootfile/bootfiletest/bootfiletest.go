// SPDX-License-Identifier: Apache-2.0

// Package bootfiletest creates files that package bootfile accepts, for tests of what
// handles kernels, initrds and boot programs without running them.
package bootfiletest

import "encoding/binary"

// Kernel returns a file that is recognized as a Linux kernel for an architecture ("x86_64",
// "aarch64") and ends with payload.
func Kernel(architecture, payload string) []byte {
	head := Program(architecture, "")
	head = append(head, make([]byte, 0x240-len(head))...)
	if architecture == "aarch64" {
		copy(head[0x38:], "ARM\x64")
		return append(head, payload...)
	}
	copy(head[0x1fe:], "\x55\xaa")
	copy(head[0x202:], "HdrS\x0f\x02")
	head[0x236] = 1
	return append(head, payload...)
}

// Initrd returns a file that is recognized as an initrd and ends with payload.
func Initrd(payload string) []byte { return append([]byte("070701"), payload...) }

// Program returns a file that is recognized as a UEFI program for an architecture and ends
// with payload.
func Program(architecture, payload string) []byte {
	const header = 0x80
	machine := uint16(0x8664)
	if architecture == "aarch64" {
		machine = 0xaa64
	}
	head := make([]byte, header)
	copy(head, "MZ")
	binary.LittleEndian.PutUint32(head[0x3c:], header)
	head = append(head, "PE\x00\x00"...)
	head = binary.LittleEndian.AppendUint16(head, machine)
	return append(head, payload...)
}
