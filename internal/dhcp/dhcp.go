// SPDX-License-Identifier: Apache-2.0

// Package dhcp is a DHCPv4 server for one link, made for network boot: it
// keeps leases, answers firmware and iPXE with what they need to boot (RFC
// 2131, 2132, 3046, 4578, 6842 and the PXE parts of the UEFI specification),
// and says by events what it saw.
//
// What a machine may boot is not decided here: the caller's [Policy] knows the
// machines. The package refuses to serve anything but Ethernet, to answer for
// another server, to relay beyond its own prefix, and to hand a boot file to a
// machine that nobody declared.
package dhcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config holds the network parameters handed out on the link. It is a value:
// replace it as a whole with [Server.SetConfig].
type Config struct {
	// ServerAddr is the server's own address on the link: server identifier
	// (option 54) and next-server. It is never leased.
	ServerAddr netip.Addr
	// Prefix is the link's network.
	Prefix netip.Prefix
	// RangeStart and RangeEnd bound the pool for machines without a
	// reservation, both included. Both zero: no pool, only reservations.
	RangeStart, RangeEnd netip.Addr
	// LeaseTime is how long a lease holds; zero means 12 hours.
	LeaseTime time.Duration
	// Router is the default gateway; zero hands out none.
	Router netip.Addr
	// DNS and NTP are handed out in this order; empty hands out none.
	DNS, NTP []netip.Addr
	// Domain is the DNS domain (option 15); empty hands out none.
	Domain string
	// MTU (option 26) is told to operating systems only: EDK2 ignores it, and
	// iPXE cannot exceed its driver's 1500. Zero tells none.
	MTU int
}

const (
	defaultLeaseTime = 12 * time.Hour
	minLeaseTime     = 10 * time.Second
)

// Validate says everything that is wrong with the configuration, or nil.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if !c.Prefix.IsValid() || !c.Prefix.Addr().Is4() {
		return fmt.Errorf("network %s is not an IPv4 prefix", c.Prefix)
	}
	if c.Prefix.Bits() > 30 {
		bad("network %s is too small: /30 is the smallest that holds a server and a client", c.Prefix)
	}
	if !hostAddr(c.Prefix, c.ServerAddr) {
		bad("server address %s is not a host address of %s", c.ServerAddr, c.Prefix)
	}
	if c.RangeStart.IsValid() != c.RangeEnd.IsValid() {
		bad("range %s-%s has only one end: give both or neither", c.RangeStart, c.RangeEnd)
	} else if c.RangeStart.IsValid() {
		if !hostAddr(c.Prefix, c.RangeStart) || !hostAddr(c.Prefix, c.RangeEnd) {
			bad("range %s-%s does not lie within the host addresses of %s", c.RangeStart, c.RangeEnd, c.Prefix)
		}
		if c.RangeEnd.Less(c.RangeStart) {
			bad("range %s-%s ends before it starts", c.RangeStart, c.RangeEnd)
		}
	}
	if c.Router.IsValid() && !hostAddr(c.Prefix, c.Router) {
		bad("router %s is not a host address of %s: clients could not reach it", c.Router, c.Prefix)
	}
	for _, a := range append(append([]netip.Addr{}, c.DNS...), c.NTP...) {
		if !a.Is4() {
			bad("name or time server %s is not an IPv4 address", a)
		}
	}
	if c.LeaseTime != 0 && c.LeaseTime < minLeaseTime {
		bad("lease time %s is shorter than %s", c.LeaseTime, minLeaseTime)
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		bad("MTU %d is outside 576-65535", c.MTU)
	}
	if len(c.Domain) > 253 {
		bad("domain of %d bytes is longer than 253", len(c.Domain))
	}
	return errors.Join(errs...)
}

// hostAddr says whether addr can be a machine's address in prefix: inside it
// and neither its network nor its broadcast address.
func hostAddr(prefix netip.Prefix, addr netip.Addr) bool {
	return addr.Is4() && prefix.Contains(addr) && addr != prefix.Masked().Addr() && addr != broadcastAddr(prefix)
}

func broadcastAddr(prefix netip.Prefix) netip.Addr {
	a := prefix.Masked().Addr().As4()
	for bit := prefix.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}

// Stage says which program on the machine is asking.
type Stage string

const (
	// Firmware is the machine's own network boot code (vendor class PXEClient
	// or HTTPClient).
	Firmware Stage = "Firmware"
	// IPXE is iPXE, recognised by its user class or its encapsulated options.
	IPXE Stage = "iPXE"
	// OS is anything else: an installer or an operating system.
	OS Stage = "OS"
)

// Arch is a client system architecture as in option 93 (RFC 4578 and the IANA
// registry "Processor Architecture Types").
type Arch uint16

// Architectures that have a name here; all others boot nothing.
const (
	ArchBIOS          Arch = 0x00
	ArchEFIBC         Arch = 0x07
	ArchEFIX8664      Arch = 0x09
	ArchEFIARM64      Arch = 0x0b
	ArchEFIX8664HTTP  Arch = 0x10
	ArchEFIARM64HTTP  Arch = 0x13
	archAbsent        Arch = 0xffff
	machineX8664           = "x86_64"
	machineAArch64         = "aarch64"
	vendorPXEClient        = "PXEClient"
	vendorHTTPClient       = "HTTPClient"
	userClassIPXE          = "iPXE"
	ipxeNoProxyDHCP   byte = 176
	pxeDiscoveryCtl   byte = 6
	pxeBootFileDirect byte = 8
)

// Machine is the architecture's name as QEMU and uname write it ("x86_64",
// "aarch64"), or "" when nothing here boots on it.
func (a Arch) Machine() string {
	switch a {
	case ArchEFIBC, ArchEFIX8664, ArchEFIX8664HTTP:
		return machineX8664
	case ArchEFIARM64, ArchEFIARM64HTTP:
		return machineAArch64
	}
	return ""
}

// HTTP says whether the firmware boots by HTTP and wants a URL.
func (a Arch) HTTP() bool { return a == ArchEFIX8664HTTP || a == ArchEFIARM64HTTP }

// String names the architecture for people.
func (a Arch) String() string {
	switch {
	case a == archAbsent:
		return "none"
	case a == ArchBIOS:
		return "bios"
	case a.HTTP():
		return a.Machine() + "-http"
	case a.Machine() != "":
		return a.Machine()
	}
	return fmt.Sprintf("0x%04x", uint16(a))
}

// Client is what a request says about the machine that asks.
type Client struct {
	MAC   net.HardwareAddr
	Stage Stage
	// Arch is meaningful in the stages Firmware and IPXE.
	Arch Arch
	// UUID is option 97's machine identifier in the RFC 9562 text form, with
	// the firmware's byte order undone; "" when absent.
	UUID string
}

// Host is a machine that the policy knows.
type Host struct {
	// Address is its reservation; zero gives it an address of the pool.
	Address netip.Addr
	// Hostname is option 12; empty sends none.
	Hostname string
	// BootFile says what to boot: a TFTP file name for firmware, a URL for
	// iPXE and HTTP-booting firmware, "" for nothing. It is asked only in the
	// stages Firmware and IPXE, and only for architectures with a
	// [Arch.Machine]. It must not block, nor call the server. Nil boots
	// nothing.
	BootFile func(Client) string
}

// Policy knows the machines. Its methods are called for every request under
// the server's lock: they must be quick, and must not call the server.
type Policy interface {
	// Lookup finds a declared machine.
	Lookup(mac net.HardwareAddr) (Host, bool)
	// Reserved says whether an address belongs to a declared machine, so that
	// the pool never gives it to another one.
	Reserved(addr netip.Addr) bool
}

// Kind is what happened.
type Kind string

// The kinds of events. Discover is never sent to [Options.Events] when an
// offer follows: the offer tells the same.
const (
	Discover Kind = "Discover" // seen, and no address could be offered: Reason says why
	Offer    Kind = "Offer"
	Ack      Kind = "Ack"
	Nak      Kind = "Nak"
	Decline  Kind = "Decline" // the client found its address in use
	Release  Kind = "Release"
	Inform   Kind = "Inform"
	Ignored  Kind = "Ignored" // counted, never sent to Options.Events
)

// Event is one thing that was seen of a machine.
type Event struct {
	Kind    Kind
	MAC     net.HardwareAddr
	Address netip.Addr
	Stage   Stage
	Arch    Arch
	// Known says whether the policy knows the machine.
	Known bool
	// BootFile is what the reply told it to boot, "" for nothing.
	BootFile string
	// Hostname is what the client calls itself, if it says and it is a valid name.
	Hostname string
	// Reason says why there is no address, no boot file, or a NAK; "" when
	// all is well.
	Reason Reason
	At     time.Time

	// probe: the address wants probing before it is offered.
	probe bool
}

// Reason is why something was not given. The set is closed: the values serve
// as names of counters.
type Reason string

// All reasons.
const (
	ReasonMalformed     Reason = "malformed message"
	ReasonNotRequest    Reason = "not a BOOTREQUEST over Ethernet"
	ReasonNoMessageType Reason = "no DHCP message type (plain BOOTP)"
	ReasonOtherServer   Reason = "addressed to another server"
	ReasonForeignRelay  Reason = "relayed from outside the network"
	ReasonOutside       Reason = "client address outside the network"
	ReasonNoAddress     Reason = "no free address in the pool"
	ReasonNotYours      Reason = "address does not belong to this machine"
	ReasonProbeBusy     Reason = "offered without probing: too many probes at once"
	ReasonUnknownHost   Reason = "machine is not declared: no boot file"
	ReasonArchitecture  Reason = "client architecture cannot be booted: no boot file"
	ReasonNothingToBoot Reason = "nothing to boot for this machine"
)
