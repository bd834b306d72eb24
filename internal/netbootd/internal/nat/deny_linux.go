// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// uplink is the network of QEMU's user-mode NAT. Its addresses stand for the host: one
// leads to the host's loopback. Only its resolver is of use to a lab.
var (
	uplink         = netip.MustParsePrefix("10.0.2.0/24")
	uplinkResolver = netip.MustParsePrefix("10.0.2.3/32")
)

// hostLocal are the destinations outside the uplink that lead to the host, or to the
// services that a cloud offers to it: the host sends what it receives for them as its own.
// They have no meaning beyond a link (RFC 6890).
var hostLocal = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

const domainPort = 53

// denyHost drops what machines of a lab send to the host through the uplink, but for
// requests to the uplink's resolver.
func denyHost(conn *nftables.Conn, table *nftables.Table, forward *nftables.Chain, lab netip.Prefix) {
	rule := func(verdict expr.VerdictKind, parts ...[]expr.Any) {
		parts = append(append([][]expr.Any{inNetwork(offsetSource, lab, expr.CmpOpEq)}, parts...), []expr.Any{&expr.Verdict{Kind: verdict}})
		conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: concat(parts...)})
	}
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(expr.VerdictAccept, inNetwork(offsetDestination, uplinkResolver, expr.CmpOpEq), toPort(protocol, domainPort))
	}
	for _, denied := range append([]netip.Prefix{uplink}, hostLocal...) {
		rule(expr.VerdictDrop, inNetwork(offsetDestination, denied, expr.CmpOpEq))
	}
}

func toPort(protocol byte, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}
