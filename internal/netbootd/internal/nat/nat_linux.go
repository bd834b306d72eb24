// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	tableName   = "pxelab-nat"
	forwardPath = "/proc/sys/net/ipv4/ip_forward"
)

var resolvConfs = []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"}

// Ensure masquerades packets from lab to addresses outside it, and drops forwarded
// packets from outside to lab that are not replies to connections opened from it, and
// packets from lab to the host itself; see denyHost.
// Packets from lab to lab pass: a machine that was installed before the network was
// widened sends those for the new part to its router. Connections within the lab, such as
// those to this server, are not tracked: a target makes about 70 of them, which would fill
// the kernel's table (some 7000 entries with 1 GiB of memory, each for two minutes). It is
// idempotent and atomic, and requires CAP_NET_ADMIN.
func Ensure(lab netip.Prefix) error {
	if !lab.IsValid() || !lab.Addr().Is4() {
		return fmt.Errorf("configuring NAT: %s is not an IPv4 network", lab)
	}
	if err := os.WriteFile(forwardPath, []byte("1\n"), 0o644); err != nil {
		return fmt.Errorf("enabling IPv4 forwarding: %w", err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening an nftables connection: %w", err)
	}
	table := replaceTable(conn)
	postrouting := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: postrouting, Exprs: concat(
		inNetwork(offsetSource, lab, expr.CmpOpEq), inNetwork(offsetDestination, lab, expr.CmpOpNeq),
		[]expr.Any{&expr.Masq{}},
	)})
	for name, hook := range map[string]*nftables.ChainHook{
		"untracked-in": nftables.ChainHookPrerouting, "untracked-out": nftables.ChainHookOutput,
	} {
		chain := conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: concat(
			inNetwork(offsetSource, lab, expr.CmpOpEq), inNetwork(offsetDestination, lab, expr.CmpOpEq), []expr.Any{&expr.Notrack{}},
		)})
	}
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: concat(
		inNetwork(offsetSource, lab, expr.CmpOpNeq), inNetwork(offsetDestination, lab, expr.CmpOpEq), isNew(), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}},
	)})
	denyHost(conn, table, forward, lab)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing the NAT rules: %w", err)
	}
	return nil
}

// Remove deletes the rules. It is idempotent. It leaves forwarding unchanged,
// because another program may depend on it.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening an nftables connection: %w", err)
	}
	conn.DelTable(replaceTable(conn))
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the NAT rules: %w", err)
	}
	return nil
}

// UplinkResolvers returns the name servers of this host, or nil if there are none
// that another machine can reach.
func UplinkResolvers() []netip.Addr {
	for _, path := range resolvConfs {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if found := Resolvers(string(raw)); len(found) > 0 {
			return found
		}
	}
	return nil
}

// replaceTable empties the table in the transaction that fills it. Adding it first
// makes the deletion succeed whether or not the table existed.
func replaceTable(conn *nftables.Conn) *nftables.Table {
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	conn.AddTable(table)
	conn.DelTable(table)
	return conn.AddTable(table)
}

// Offsets of addresses in the IPv4 header.
const (
	offsetSource      = 12
	offsetDestination = 16
)

func inNetwork(offset uint32, network netip.Prefix, op expr.CmpOp) []expr.Any {
	address := network.Masked().Addr().As4()
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - network.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: address[:]},
	}
}

func isNew() []expr.Any {
	bits := binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW | expr.CtStateBitINVALID)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func concat(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
