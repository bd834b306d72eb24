// SPDX-License-Identifier: Apache-2.0

// Package netbootd runs the services of the provisioning VM: it composes DHCP,
// TFTP, HTTP, DNS and NTP into a boot server for the declared machines, records what it
// observes of them and serves the netboot API.
//
// [policy.Decide] alone decides what a machine boots; the DHCP answer, the TFTP
// server, the iPXE script and the installer plan all use it, so they cannot
// disagree. Undeclared machines get nothing to boot. The package runs no
// other program.
//
// [policy.Decide]: https://pkg.go.dev/github.com/pxelab/pxelab/internal/bootconfig/policy#Decide
package netbootd
