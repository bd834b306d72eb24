// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config holds the network parameters sent to clients. It is a value: replace it
// as a whole with [Server.SetConfig].
type Config struct {
	// ServerAddr is the server's own address on the link: server identifier
	// (option 54) and next-server. It is never leased.
	ServerAddr netip.Addr
	// Prefix is the link's network.
	Prefix netip.Prefix
	// RangeStart and RangeEnd are the first and last address of the pool for
	// machines without a reservation. If both are zero there is no pool.
	RangeStart, RangeEnd netip.Addr
	// LeaseTime is the duration of a lease; zero means 12 hours.
	LeaseTime time.Duration
	// Router is the default gateway; zero sends none.
	Router netip.Addr
	// DNS and NTP servers are sent in this order; empty sends none.
	DNS, NTP []netip.Addr
	// Domain is the DNS domain (option 15); empty sends none.
	Domain string
	// MTU (option 26) is sent to operating systems only: EDK2 ignores it, and
	// iPXE is limited to its driver's 1500. Zero sends none.
	MTU int
}

const (
	defaultLeaseTime = 12 * time.Hour
	minLeaseTime     = 10 * time.Second
)

// Validate returns all errors in the configuration, joined, or nil.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if !c.Prefix.IsValid() || !c.Prefix.Addr().Is4() {
		return fmt.Errorf("network %s is not an IPv4 prefix", c.Prefix)
	}
	if c.Prefix.Bits() > 30 {
		bad("network %s is too small: use /30 or larger to fit a server and a client", c.Prefix)
	}
	if !hostAddr(c.Prefix, c.ServerAddr) {
		bad("server address %s is not a host address of %s", c.ServerAddr, c.Prefix)
	}
	if c.RangeStart.IsValid() != c.RangeEnd.IsValid() {
		bad("range %s-%s has only one end: set both or neither", c.RangeStart, c.RangeEnd)
	} else if c.RangeStart.IsValid() {
		if !hostAddr(c.Prefix, c.RangeStart) || !hostAddr(c.Prefix, c.RangeEnd) {
			bad("range %s-%s is not within the host addresses of %s", c.RangeStart, c.RangeEnd, c.Prefix)
		}
		if c.RangeEnd.Less(c.RangeStart) {
			bad("range %s-%s ends before it starts", c.RangeStart, c.RangeEnd)
		}
	}
	if c.Router.IsValid() && !hostAddr(c.Prefix, c.Router) {
		bad("router %s is not a host address of %s: clients cannot reach it", c.Router, c.Prefix)
	}
	for _, a := range append(append([]netip.Addr{}, c.DNS...), c.NTP...) {
		if !a.Is4() {
			bad("DNS or NTP server %s is not an IPv4 address", a)
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

// hostAddr reports whether addr can be a machine's address in prefix: contained
// in it, and neither its network nor its broadcast address.
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

// Stage is the kind of program on the machine that sent a request.
type Stage string

const (
	// Firmware is the machine's built-in network boot code (vendor class
	// PXEClient or HTTPClient).
	Firmware Stage = "Firmware"
	// IPXE is iPXE, recognised by its user class or its encapsulated options.
	IPXE Stage = "iPXE"
	// OS is any other client: an installer or an operating system.
	OS Stage = "OS"
)

// Arch is a client system architecture as sent in option 93 (RFC 4578 and the
// IANA registry "Processor Architecture Types").
type Arch uint16

// Known architectures. Clients of any other architecture get no boot file.
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

// Machine returns the architecture's name as in QEMU and uname ("x86_64",
// "aarch64"), or "" for an architecture that cannot be booted.
func (a Arch) Machine() string {
	switch a {
	case ArchEFIBC, ArchEFIX8664, ArchEFIX8664HTTP:
		return machineX8664
	case ArchEFIARM64, ArchEFIARM64HTTP:
		return machineAArch64
	}
	return ""
}

// HTTP reports whether the firmware uses UEFI HTTP boot and expects a URL.
func (a Arch) HTTP() bool { return a == ArchEFIX8664HTTP || a == ArchEFIARM64HTTP }

// String returns a human-readable name.
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

// Client describes the sender of a request.
type Client struct {
	MAC   net.HardwareAddr
	Stage Stage
	// Arch is meaningful for the stages Firmware and IPXE.
	Arch Arch
	// UUID is the machine identifier of option 97 in RFC 9562 text form, with
	// the firmware's byte order corrected; "" if absent.
	UUID string
}

// Host is a declared machine.
type Host struct {
	// Address is its reservation; zero means an address from the pool.
	Address netip.Addr
	// Hostname is option 12; empty sends none.
	Hostname string
	// BootFile returns what to boot: a TFTP file name for firmware, a URL for
	// iPXE and HTTP boot, "" for nothing. It is called only for the stages
	// Firmware and IPXE, and only for architectures that have an
	// [Arch.Machine]. It must not block or call the server. Nil means nothing
	// to boot.
	BootFile func(Client) string
}

// Policy looks up declared machines. Its methods are called for every request
// under the server's lock: they must return quickly and must not call the server.
type Policy interface {
	// Lookup returns the declared machine with a MAC.
	Lookup(mac net.HardwareAddr) (Host, bool)
	// Reserved reports whether an address belongs to a declared machine and
	// must not be leased from the pool.
	Reserved(addr netip.Addr) bool
}

// Kind is the kind of an event.
type Kind string

// The kinds of events. A DHCPDISCOVER that is answered is reported as an Offer
// only.
const (
	Discover Kind = "Discover" // no address could be offered: see Reason
	Offer    Kind = "Offer"
	Ack      Kind = "Ack"
	Nak      Kind = "Nak"
	Decline  Kind = "Decline" // the client detected an address conflict
	Release  Kind = "Release"
	Inform   Kind = "Inform"
	Ignored  Kind = "Ignored" // only counted, never passed to Options.Events
)

// Event is one observation of a machine.
type Event struct {
	Kind    Kind
	MAC     net.HardwareAddr
	Address netip.Addr
	Stage   Stage
	Arch    Arch
	// Known reports whether the machine is declared.
	Known bool
	// BootFile is the boot file in the reply, "" for none. It may be a secret.
	BootFile string
	// Hostname is the name the client sent, "" if it sent none or an invalid one.
	Hostname string
	// Reason is why there is no address, no boot file, or a NAK; "" otherwise.
	Reason Reason
	At     time.Time

	// probe requests that the address be probed before it is offered.
	probe bool
}

// Reason is why a request was ignored or only partly served. The set is closed
// because the values name counters.
type Reason string

// The reasons.
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
	ReasonRelayed       Reason = "relayed: no boot file, which may be a secret"
)
