// SPDX-License-Identifier: Apache-2.0

// Package qemuimg inspects, converts and creates disk images; it uses qemu-img for
// qcow2. Images are untrusted input: qemu-img never detects a format itself,
// never opens a file whose header this package has not checked, and always runs
// with limits on time, CPU, memory and output size. Images that refer to other
// files are rejected.
//
// The package does not read file systems inside images and does not know about
// machines.
package qemuimg
