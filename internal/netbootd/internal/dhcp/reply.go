// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Responder computes replies. It does no I/O, so that the rules of RFC 2131 can
// be tested as a function of request and time. It is safe for concurrent use.
type Responder struct {
	mu       sync.Mutex
	cfg      Config
	policy   Policy
	table    table
	counters map[Reason]uint64
}

// NewResponder validates the configuration and returns a Responder without
// leases.
func NewResponder(c Config, p Policy) (*Responder, error) {
	if p == nil {
		return nil, fmt.Errorf("dhcp: no policy is set")
	}
	r := &Responder{policy: p, table: newTable(), counters: map[Reason]uint64{}}
	return r, r.SetConfig(c)
}

// SetConfig replaces the network parameters. Leases that no longer fit are
// refused at their next renewal.
func (r *Responder) SetConfig(c Config) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("dhcp: %w", err)
	}
	if c.LeaseTime == 0 {
		c.LeaseTime = defaultLeaseTime
	}
	c.Prefix = c.Prefix.Masked()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg = c
	for _, l := range r.table.byAddr {
		if !hostAddr(c.Prefix, l.addr) || l.addr == c.ServerAddr {
			r.table.remove(l)
		}
	}
	for a := range r.table.declined {
		if !c.Prefix.Contains(a) {
			delete(r.table.declined, a)
		}
	}
	return nil
}

func (r *Responder) serverAddr() net.IP {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg.ServerAddr.AsSlice()
}

// Leases returns a snapshot ordered by address, including offers and expired
// leases (see State).
func (r *Responder) Leases(now time.Time) []Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.snapshot(now)
}

// Restore loads leases of an earlier snapshot. It skips offers, addresses that
// the machine may not hold (outside the network or reserved for another machine),
// and machines or addresses that already have a lease.
func (r *Responder) Restore(leases []Lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range leases {
		if len(l.MAC) != 6 || l.State == Offered || r.table.byMAC[hwAddr(l.MAC)] != nil || r.table.byAddr[l.Address] != nil {
			continue
		}
		mac := hwAddr(l.MAC)
		host, known := r.policy.Lookup(l.MAC)
		if !r.mayHold(host, known, l.Address) {
			continue
		}
		e := r.table.assign(mac, l.Address)
		e.bound = true
		e.released = l.State == Released
		e.probed = true
		e.hostname = l.Hostname
		e.expires = l.Expires
		e.seen = l.LastSeen
	}
}

// Forget removes the lease of a deleted machine, if it has one.
func (r *Responder) Forget(mac net.HardwareAddr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(mac) != 6 {
		return
	}
	if l := r.table.byMAC[hwAddr(mac)]; l != nil {
		r.table.remove(l)
	}
}

// Counters returns how often each reason occurred.
func (r *Responder) Counters() map[Reason]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(map[Reason]uint64, len(r.counters))
	for k, v := range r.counters {
		c[k] = v
	}
	return c
}

func (r *Responder) count(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters[reason]++
}

// Conflict keeps an address that is in use without a lease out of the pool for
// ten minutes.
func (r *Responder) Conflict(addr netip.Addr, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.decline(addr, now)
}

// Probed records that an offered address is unused, so that it is not probed
// again.
func (r *Responder) Probed(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.table.byAddr[addr]; l != nil {
		l.probed = true
	}
}

// Reply returns the reply to one message, nil for none, and the event to report.
func (r *Responder) Reply(req *dhcpv4.DHCPv4, now time.Time) (*dhcpv4.DHCPv4, Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := &exchange{r: r, req: req, now: now, Event: Event{Kind: Ignored, At: now}}
	reply := x.answer()
	x.Event.MAC = append(net.HardwareAddr(nil), req.ClientHWAddr...)
	if x.Reason != "" {
		r.counters[x.Reason]++
	}
	return reply, x.Event
}

// The following functions require r.mu.

func (r *Responder) pool() pool {
	p := pool{allowed: func(a netip.Addr) bool {
		return a != r.cfg.ServerAddr && a != r.cfg.Router && !r.policy.Reserved(a)
	}}
	if r.cfg.RangeStart.IsValid() {
		p.start = toUint(r.cfg.RangeStart)
		p.size = toUint(r.cfg.RangeEnd) - p.start + 1
	}
	return p
}

// mayHold reports whether an address is valid for a machine: its reservation, or
// any address of the pool if it has no reservation.
func (r *Responder) mayHold(host Host, known bool, a netip.Addr) bool {
	if r.reservation(host, known) {
		return a == host.Address
	}
	return r.pool().contains(a)
}

// reservation reports whether the machine has a reservation that is valid in this
// network.
func (r *Responder) reservation(host Host, known bool) bool {
	return known && hostAddr(r.cfg.Prefix, host.Address) && host.Address != r.cfg.ServerAddr
}

// exchange holds the state of handling one request.
type exchange struct {
	Event
	r      *Responder
	req    *dhcpv4.DHCPv4
	now    time.Time
	client Client
	host   Host
}

func (x *exchange) ignore(reason Reason) *dhcpv4.DHCPv4 {
	x.Kind, x.Reason = Ignored, reason
	return nil
}

func (x *exchange) answer() *dhcpv4.DHCPv4 {
	req, cfg := x.req, x.r.cfg
	// Ethernet only (type 1, 6 bytes), with a unicast address.
	if req.OpCode != dhcpv4.OpcodeBootRequest || req.HWType != 1 || len(req.ClientHWAddr) != 6 || req.ClientHWAddr[0]&1 != 0 {
		return x.ignore(ReasonNotRequest)
	}
	if relay := addr(req.GatewayIPAddr); isSet(relay) && !cfg.Prefix.Contains(relay) {
		return x.ignore(ReasonForeignRelay)
	}
	if id := addr(req.Options.Get(dhcpv4.OptionServerIdentifier)); isSet(id) && id != cfg.ServerAddr {
		return x.otherServer()
	}
	x.client = identify(req)
	x.host, x.Known = x.r.policy.Lookup(x.client.MAC)
	x.Stage = x.client.Stage
	x.Arch = x.client.Arch
	x.Hostname = hostname(req)

	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return x.discover()
	case dhcpv4.MessageTypeRequest:
		return x.request()
	case dhcpv4.MessageTypeDecline:
		return x.decline()
	case dhcpv4.MessageTypeRelease:
		return x.release()
	case dhcpv4.MessageTypeInform:
		return x.inform()
	}
	return x.ignore(ReasonNoMessageType)
}

// otherServer withdraws this server's offer when the client selected that of
// another one.
func (x *exchange) otherServer() *dhcpv4.DHCPv4 {
	if l := x.r.table.byMAC[x.mac()]; l != nil && !l.bound && x.req.MessageType() == dhcpv4.MessageTypeRequest {
		x.r.table.remove(l)
	}
	return x.ignore(ReasonOtherServer)
}

func (x *exchange) mac() hwAddr { return hwAddr(x.req.ClientHWAddr) }

// requested returns the requested IP address (option 50).
func (x *exchange) requested() netip.Addr {
	return addr(x.req.Options.Get(dhcpv4.OptionRequestedIPAddress))
}

func (x *exchange) discover() *dhcpv4.DHCPv4 {
	t := &x.r.table
	a := x.host.Address
	reserved := x.r.reservation(x.host, x.Known)
	if !reserved {
		var ok bool
		if a, ok = t.find(x.r.pool(), x.mac(), x.requested(), x.now); !ok {
			x.Kind, x.Reason = Discover, ReasonNoAddress
			return nil
		}
	}
	l := t.assign(x.mac(), a)
	l.seen = x.now
	if !l.bound || !l.active(x.now) {
		// An active lease stays bound: its machine may be rebooting.
		l.bound = false
		l.released = false
		l.expires = x.now.Add(offerTime)
	}
	x.Kind = Offer
	x.Address = a
	x.probe = !reserved && !l.probed
	reply := x.reply(dhcpv4.MessageTypeOffer)
	x.addLease(reply, a)
	x.addParameters(reply)
	return reply
}

// request handles all uses of DHCPREQUEST (RFC 2131 section 4.3.2). The RFC
// requires silence for clients without a record, because another server may have
// one; this is the only server of its network, so it answers them as well.
func (x *exchange) request() *dhcpv4.DHCPv4 {
	want := x.requested()
	if !isSet(want) {
		want = addr(x.req.ClientIPAddr) // renewing or rebinding
	}
	x.Address = want
	if !isSet(want) || !x.mayBind(want) {
		return x.nak()
	}
	l := x.r.table.assign(x.mac(), want)
	l.bound = true
	l.released = false
	l.probed = true
	l.expires, l.seen = x.now.Add(x.r.cfg.LeaseTime), x.now
	if x.Hostname != "" {
		l.hostname = x.Hostname
	}
	x.Kind = Ack
	reply := x.reply(dhcpv4.MessageTypeAck)
	reply.ClientIPAddr = x.req.ClientIPAddr
	x.addLease(reply, want)
	x.addParameters(reply)
	return reply
}

// mayBind reports whether the machine may bind this address: the address is valid
// for it, and no other machine has a bound lease on it. An offer to another
// machine does not count: otherwise a flood of DHCPDISCOVERs could block bindings.
func (x *exchange) mayBind(a netip.Addr) bool {
	if !x.r.mayHold(x.host, x.Known, a) {
		return false
	}
	if x.r.reservation(x.host, x.Known) {
		return true // a lease of another machine predates the reservation
	}
	t := &x.r.table
	if own := t.byMAC[x.mac()]; own != nil && own.active(x.now) {
		return own.addr == a
	}
	if until, ok := t.declined[a]; ok && x.now.Before(until) {
		return false
	}
	l := t.byAddr[a]
	return l == nil || l.mac == x.mac() || !l.bound || !l.active(x.now)
}

func (x *exchange) nak() *dhcpv4.DHCPv4 {
	x.Kind, x.Reason = Nak, ReasonNotYours
	reply := x.reply(dhcpv4.MessageTypeNak)
	reply.ServerIPAddr = net.IPv4zero
	reply.UpdateOption(dhcpv4.OptMessage(string(ReasonNotYours)))
	// RFC 2131 section 4.3.2: a relay agent must broadcast it.
	if isSet(addr(x.req.GatewayIPAddr)) {
		reply.SetBroadcast()
	}
	return reply
}

func (x *exchange) decline() *dhcpv4.DHCPv4 {
	a := x.requested()
	l := x.r.table.byMAC[x.mac()]
	if l == nil || l.addr != a {
		return x.ignore(ReasonNotYours) // otherwise one client could empty the pool
	}
	x.Kind, x.Address = Decline, a
	if x.r.reservation(x.host, x.Known) {
		// A reserved address cannot be replaced: it is offered again, and the
		// event reports the conflict.
		x.r.table.remove(l)
		return nil
	}
	x.r.table.decline(a, x.now)
	return nil
}

func (x *exchange) release() *dhcpv4.DHCPv4 {
	a := addr(x.req.ClientIPAddr)
	l := x.r.table.byMAC[x.mac()]
	if l == nil || l.addr != a {
		return x.ignore(ReasonNotYours)
	}
	l.released = true
	l.expires = x.now
	l.seen = x.now
	x.Kind, x.Address = Release, a
	return nil
}

// inform sends parameters to a machine that is already configured with an
// address.
func (x *exchange) inform() *dhcpv4.DHCPv4 {
	a := addr(x.req.ClientIPAddr)
	if !hostAddr(x.r.cfg.Prefix, a) {
		return x.ignore(ReasonOutside)
	}
	x.Kind, x.Address = Inform, a
	reply := x.reply(dhcpv4.MessageTypeAck)
	reply.ClientIPAddr = x.req.ClientIPAddr
	x.addParameters(reply)
	return reply
}

// reply returns the common part of every reply. It echoes the client identifier
// (RFC 6842), the machine identifier (UEFI specification) and the relay agent
// information (RFC 3046).
func (x *exchange) reply(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	server := x.r.cfg.ServerAddr.AsSlice()
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        x.req.HWType,
		ClientHWAddr:  x.req.ClientHWAddr,
		TransactionID: x.req.TransactionID,
		Flags:         x.req.Flags,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  server,
		GatewayIPAddr: x.req.GatewayIPAddr,
		Options:       dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(server))
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, optMachineUUID, dhcpv4.OptionRelayAgentInformation} {
		if b := x.req.Options.Get(code); len(b) > 0 && len(b) <= 255 {
			m.Options.Update(dhcpv4.OptGeneric(code, b))
		}
	}
	return m
}

func (x *exchange) addLease(m *dhcpv4.DHCPv4, a netip.Addr) {
	m.YourIPAddr = a.AsSlice()
	t := x.r.cfg.LeaseTime
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(t))
	m.UpdateOption(dhcpv4.OptRenewTimeValue(t / 2))
	m.UpdateOption(dhcpv4.OptRebindingTimeValue(t * 7 / 8))
}

// addParameters adds the network parameters and the boot file. An operating
// system gets the options it requested (option 55), or all if it sent no list;
// network boot code often requests less than it needs and gets all.
func (x *exchange) addParameters(m *dhcpv4.DHCPv4) {
	cfg := x.r.cfg
	requested := x.req.Options.Get(dhcpv4.OptionParameterRequestList)
	add := func(o dhcpv4.Option) {
		if x.Stage == OS && len(requested) > 0 && !contains(requested, o.Code.Code()) {
			return
		}
		m.UpdateOption(o)
	}
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(cfg.Prefix.Bits(), 32)))
	add(dhcpv4.OptBroadcastAddress(broadcastAddr(cfg.Prefix).AsSlice()))
	if cfg.Router.IsValid() {
		add(dhcpv4.OptRouter(cfg.Router.AsSlice()))
	}
	if len(cfg.DNS) > 0 {
		add(dhcpv4.OptDNS(slice(cfg.DNS)...))
	}
	if len(cfg.NTP) > 0 {
		add(dhcpv4.OptNTPServers(slice(cfg.NTP)...))
	}
	if cfg.Domain != "" {
		add(dhcpv4.OptDomainName(cfg.Domain))
	}
	if x.host.Hostname != "" {
		add(dhcpv4.OptHostName(x.host.Hostname))
	}
	if cfg.MTU != 0 && x.Stage == OS {
		add(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(cfg.MTU))))
	}
	if x.Stage != OS {
		x.addBoot(m)
	}
}

func contains(list []byte, code uint8) bool {
	for _, c := range list {
		if c == code {
			return true
		}
	}
	return false
}

func slice(addrs []netip.Addr) []net.IP {
	var ips []net.IP
	for _, a := range addrs {
		ips = append(ips, a.AsSlice())
	}
	return ips
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

func isSet(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }
