// SPDX-License-Identifier: Apache-2.0

// Package l2switch is a learning Ethernet switch in user space. Its ports are
// UNIX datagram sockets as used by QEMU's dgram netdev, one frame per datagram,
// so that virtual machines share a network without privileges on the host, in the
// same way on Linux and macOS.
//
// The switch learns addresses with ageing and floods broadcast, multicast and
// unknown unicast. Each port has a bounded queue, so that a guest that stops
// reading does not delay the others, and all queues together are bounded. Machines and
// the switch may start, stop and restart in any order: frames to a missing peer are
// dropped.
//
// It is meant for a thousand ports, so a frame to all machines that only one or two can
// answer is not flooded: messages to DHCP servers and IPv6 routers go to trusted ports,
// ARP for an address of a [Policy] goes to the port that has it, a broadcast DHCP reply
// to its client, and an IPv6 neighbor solicitation to the ports whose machines were seen
// to have such an address. These frames are forwarded unchanged and answered by the
// machines themselves. Adding, removing and looking up a port does not depend on the
// number of ports.
//
// A [Policy] binds a port to the MAC and the addresses of its machine ([SourceGuard]),
// drops what only the network's server may send: DHCP server messages (DHCP snooping; for
// DHCPv6 as in DHCPv6-Shield, RFC 7610), router advertisements and redirects (RA guard,
// RFC 6105, with the header checks of RFC 7113), and limits the rates of frames that
// concern more than their receiver. VLAN tags hide nothing from a policy. The switch can
// also impair the network and capture its frames as pcap.
//
// Out of scope are VLANs (tagged frames are forwarded unchanged), spanning tree
// (the caller must not create loops) and IP.
package l2switch
