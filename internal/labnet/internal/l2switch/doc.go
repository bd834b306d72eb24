// SPDX-License-Identifier: Apache-2.0

// Package l2switch is a learning Ethernet switch in user space. Its ports are
// UNIX datagram sockets as used by QEMU's dgram netdev, one frame per datagram,
// so that virtual machines share a network without privileges on the host, in the
// same way on Linux and macOS.
//
// The switch learns addresses with ageing and floods broadcast, multicast and
// unknown unicast. Each port has a bounded queue, so that a guest that stops
// reading does not delay the others. Machines and the switch may start, stop and
// restart in any order: frames to a missing peer are dropped.
//
// A [Policy] binds a port to the MAC of its machine and drops what only the
// network's server may send: DHCP server messages (DHCP snooping; for DHCPv6 as
// in DHCPv6-Shield, RFC 7610), and router advertisements and redirects (RA guard,
// RFC 6105, with the header checks of RFC 7113). The switch can also impair the
// network and capture its frames as pcap.
//
// Out of scope are VLANs (tagged frames are forwarded unchanged), spanning tree
// (the caller must not create loops) and IP.
package l2switch
