// SPDX-License-Identifier: Apache-2.0

// Package qemu runs virtual machines with QEMU.
//
// [Args] turns a [machine.Machine] into QEMU's command line. It is a pure
// function. [Local] is the [machine.Runner] whose machines are QEMU processes of
// this host. The processes outlive the process that started them: the next Local
// on the same data directory adopts them, from the record that each machine has
// on disk and from its QMP socket.
//
// The package does not know what a machine is for: roles, boot policy and
// networks beyond a NIC's backend belong to its callers.
package qemu
