// SPDX-License-Identifier: Apache-2.0

// Package server runs simulated machines in this process, for the Runner in package
// simulator, which is their only client. It connects each machine to its network by
// the UNIX sockets in its description, as QEMU does, serves its serial console, and
// keeps its record and the content of its disk. What the machine does is decided by
// package guest.
package server
