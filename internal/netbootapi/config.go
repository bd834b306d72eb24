// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
)

// ServerConfig is what one netbootd serves to all machines. A new one replaces the
// previous one as a whole.
type ServerConfig struct {
	Network  Network   `json:"network"`
	Programs []Program `json:"programs,omitempty"`
	// TextKey is the secret with which the texts of machines are addressed
	// (TextBlob), at least 16 bytes.
	TextKey []byte `json:"textKey"`
}

// Encode returns the bytes of the config that are sent and whose Digest identifies it.
func (c *ServerConfig) Encode() []byte { return mustEncode(c) }

// mustEncode encodes a value of which every field marshals by construction.
func mustEncode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshalling %T: %v", v, err))
	}
	return raw
}

// Digest returns the SHA-256 digest of bytes that are sent ("sha256:<hex>"). Both sides
// compute it of the same bytes, never of a value that was decoded and encoded again.
func Digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Network is the lab network as netbootd serves it.
type Network struct {
	// MAC of the server's lab NIC, by which netbootd finds its interface.
	MAC string `json:"mac"`
	// Address is the server's static address with the lab's prefix length.
	Address netip.Prefix `json:"address"`
	// RangeStart and RangeEnd bound the pool for undeclared machines.
	RangeStart netip.Addr `json:"rangeStart"`
	RangeEnd   netip.Addr `json:"rangeEnd"`
	// LeaseSeconds is the lease time, at least 60.
	LeaseSeconds int `json:"leaseSeconds"`
	// MTU announced in DHCP option 26; 0 omits the option.
	MTU int `json:"mtu,omitempty"`
	// NAT routes targets to the uplink and makes the server their gateway.
	NAT bool `json:"nat,omitempty"`
	// DNS servers announced by DHCP; if empty, the server itself is announced. The server
	// asks these for names that are not of the lab or, if there are none and NAT is set,
	// those of the uplink.
	DNS []netip.Addr `json:"dns,omitempty"`
	// Domain of the lab. Without one the server has no names.
	Domain string `json:"domain,omitempty"`
	// ServerName is the server's own label in Domain.
	ServerName string `json:"serverName,omitempty"`
}

// NameServers returns the name servers that machines receive.
func (n *Network) NameServers() []netip.Addr {
	if len(n.DNS) > 0 {
		return n.DNS
	}
	return []netip.Addr{n.Address.Addr()}
}

// Declaration identifies the values of a spec, so that what was installed can be compared
// with what is declared. It does not contain the values.
type Declaration struct {
	// Key identifies the key of the digests. Only digests with the same key can be
	// compared.
	Key string `json:"key"`
	// Fields are digests of values, by the path of the field; at most 64.
	Fields map[string]string `json:"fields,omitempty"`
}

// Program is a network boot program (iPXE) for one client architecture.
type Program struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	// Name is the TFTP file name, for example "ipxe.efi".
	Name string `json:"name"`
	Blob Blob   `json:"blob"`
}
