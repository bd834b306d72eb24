// SPDX-License-Identifier: Apache-2.0

// Package cloudinit renders the documents that cloud-init reads: user-data,
// meta-data, vendor-data and network-config of an installed machine, and those of
// the provisioning VM's seed. Its functions are pure. Templates have access only
// to the Values they are given, not to files, environment, network or clock, and
// their execution time and output are limited.
package cloudinit
