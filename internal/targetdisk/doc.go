// SPDX-License-Identifier: Apache-2.0

// Package targetdisk manages the disks of a target and records which installation
// is on them. The record is stored next to the disks and not in the API, because
// the content of a disk is a fact of the host: a stale status must never cause a
// disk to be wiped.
//
// Calls for one directory must be serialized by the caller; the package does not
// lock.
package targetdisk
