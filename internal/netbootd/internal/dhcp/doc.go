// SPDX-License-Identifier: Apache-2.0

// Package dhcp is a DHCPv4 server for one link, designed for network boot. It
// manages leases, gives firmware and iPXE the options they need to boot (RFC
// 2131, 2132, 3046, 4578, 6842 and the PXE sections of the UEFI specification),
// and reports what it observes as events.
//
// The caller's [Policy] knows the declared machines and decides what each of
// them boots. The package serves Ethernet only, ignores requests for other
// servers and requests relayed from outside its prefix, and never sends a boot
// file to an undeclared machine.
package dhcp
