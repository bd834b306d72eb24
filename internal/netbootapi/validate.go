// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// Limits. They are far above the needs of a lab and prevent a wrong or hostile value
// from exhausting the memory of the guest or the manager.
const (
	// MaxMachines is how many machines one netbootd serves.
	MaxMachines = 4096
	// MaxConfigBytes limits an encoded ServerConfig, MaxEntryBytes an encoded Entry,
	// which refers to files and texts and contains neither: all of MaxMachines fit on
	// the disk and in the memory of the guest.
	MaxConfigBytes = 256 << 10
	MaxEntryBytes  = 64 << 10
	// MaxTextBytes limits one text, MaxKeysBytes the SSH keys.
	MaxTextBytes = 256 << 10
	MaxKeysBytes = 1 << 20
	// MaxMachineBytes limits the encoded state of one machine, MaxServerBytes the
	// rest of the state.
	MaxMachineBytes = 64 << 10
	MaxServerBytes  = 4 << 20
	// MaxIDBytes limits the strings of a machine that its state repeats.
	MaxIDBytes = 256
	// minTextKey is the minimum size of a TextKey in bytes.
	minTextKey = 16
)

// ErrInvalid is wrapped by every error about a config or credentials that
// netbootd cannot serve; pushing the same again does not help.
var ErrInvalid = errors.New("invalid configuration")

var (
	tokenPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{22,128}$`)
	uidPattern     = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`)
	programPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	labelPattern   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// Validate returns why netbootd cannot serve the config: all invalid fields by name, in
// one error that wraps ErrInvalid.
func (c *ServerConfig) Validate() error {
	v := &validator{}
	v.network(&c.Network)
	v.programs(c.Programs)
	if len(c.TextKey) < minTextKey {
		v.fail("textKey", "%d bytes are fewer than %d", len(c.TextKey), minTextKey)
	}
	return v.result()
}

// Validate returns why netbootd cannot serve the machine on a network: all invalid
// fields by name, in one error that wraps ErrInvalid. It does not parse templates.
func (m *Machine) Validate(n *Network) error {
	v := &validator{}
	v.machine(n, m)
	return v.result()
}

type validator struct{ errs []error }

func (v *validator) result() error {
	if len(v.errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(v.errs...))
}

func (v *validator) fail(field, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

func (v *validator) network(n *Network) {
	if _, err := ParseMAC(n.MAC); err != nil {
		v.fail("network.mac", "%v", err)
	}
	if !n.Address.IsValid() || !n.Address.Addr().Is4() || n.Address.Bits() < 8 || n.Address.Bits() > 30 {
		v.fail("network.address", "%q is not an IPv4 address with a prefix of 8 to 30 bits", n.Address)
		return
	}
	if !hostOf(n.Address, n.Address.Addr()) {
		v.fail("network.address", "%s is the network or broadcast address", n.Address.Addr())
	}
	for field, a := range map[string]netip.Addr{"network.rangeStart": n.RangeStart, "network.rangeEnd": n.RangeEnd} {
		if !hostOf(n.Address, a) {
			v.fail(field, "%s is not a host address of %s", a, n.Address.Masked())
		}
	}
	if n.RangeEnd.Less(n.RangeStart) {
		v.fail("network.rangeEnd", "%s comes before rangeStart %s", n.RangeEnd, n.RangeStart)
	}
	if n.LeaseSeconds < 60 {
		v.fail("network.leaseSeconds", "%d is below 60", n.LeaseSeconds)
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
		v.fail("network.mtu", "%d is neither 0 nor between 576 and 65535", n.MTU)
	}
	if n.Domain != "" && !labelPattern.MatchString(n.ServerName) {
		v.fail("network.serverName", "%q is not a host name (RFC 1123)", n.ServerName)
	}
	for i, a := range n.DNS {
		if !a.Is4() {
			v.fail(fmt.Sprintf("network.dns[%d]", i), "%q is not an IPv4 address", a)
		}
	}
}

func (v *validator) programs(programs []Program) {
	names := map[string]bool{}
	archs := map[string]bool{}
	for i, p := range programs {
		field := fmt.Sprintf("programs[%d]", i)
		v.architecture(field+".architecture", p.Architecture)
		if !programPattern.MatchString(p.Name) {
			v.fail(field+".name", "%q is not a plain file name", p.Name)
		}
		if names[p.Name] || archs[p.Architecture] {
			v.fail(field, "name %q or architecture %q is used twice", p.Name, p.Architecture)
		}
		names[p.Name], archs[p.Architecture] = true, true
		v.blob(field+".blob", p.Blob)
	}
}

func (v *validator) machine(n *Network, m *Machine) {
	if !ValidUID(m.UID) {
		v.fail("uid", "%q is not 1 to 128 letters, digits, dots, underscores or dashes", m.UID)
	}
	if !tokenPattern.MatchString(m.Token) {
		// The value itself is a secret and stays out of the message.
		v.fail("token", "must be 22 to 128 characters of A-Z a-z 0-9 _ -")
	}
	if !tokenPattern.MatchString(m.SeedToken) || m.SeedToken == m.Token {
		v.fail("seedToken", "must be 22 to 128 characters of A-Z a-z 0-9 _ -, other than those of token")
	}
	for _, label := range strings.Split(m.Hostname, ".") {
		if !labelPattern.MatchString(label) {
			v.fail("hostname", "%q is not a host name (RFC 1123)", m.Hostname)
			break
		}
	}
	v.identity(n, m)
	v.architecture("architecture", m.Architecture)
	if m.Attempt == "" {
		v.fail("attempt", "is empty")
	}
	for name, id := range map[string]string{
		"attempt": m.Attempt, "powerOn": m.PowerOn, "instanceID": m.InstanceID, "profileDigest": m.ProfileDigest,
	} {
		if len(id) > MaxIDBytes {
			v.fail(name, "%d bytes are more than the limit of %d", len(id), MaxIDBytes)
		}
	}
	v.declared(m.Declared)
	v.text("ipxeTemplate", m.IPXETemplate, MaxTextBytes)
	v.text("userDataTemplate", m.UserDataTemplate, MaxTextBytes)
	v.text("networkConfigTemplate", m.NetworkConfigTemplate, MaxTextBytes)
	v.text("sshAuthorizedKeys", m.SSHAuthorizedKeys, MaxKeysBytes)
	v.boot(m)
}

// The limits of a Declaration, which the state of the machine repeats.
const (
	maxDeclaredFields = 64
	maxDeclaredBytes  = 128
)

func (v *validator) declared(d *Declaration) {
	if d == nil {
		return
	}
	if len(d.Fields) > maxDeclaredFields || len(d.Key) > maxDeclaredBytes {
		v.fail("declared", "%d fields with a key of %d bytes exceed the limits of %d and %d",
			len(d.Fields), len(d.Key), maxDeclaredFields, maxDeclaredBytes)
		return
	}
	for field, digest := range d.Fields {
		if len(field)+len(digest) > maxDeclaredBytes {
			v.fail("declared", "a field has %d bytes, more than the limit of %d", len(field)+len(digest), maxDeclaredBytes)
			return
		}
	}
}

func (v *validator) identity(n *Network, m *Machine) {
	mac, err := ParseMAC(m.MAC)
	if err != nil {
		v.fail("mac", "%v", err)
	}
	if own, err := ParseMAC(n.MAC); err == nil && own.String() == mac.String() {
		v.fail("mac", "%s is the server's MAC address", mac)
	}
	switch {
	case !hostOf(n.Address, m.Address):
		v.fail("address", "%s is not a host address of %s", m.Address, n.Address.Masked())
	case m.Address == n.Address.Addr():
		v.fail("address", "%s is the server's address", m.Address)
	}
}

func (v *validator) boot(m *Machine) {
	files := []struct {
		name string
		blob Blob
	}{{"kernel", m.Kernel}, {"initrd", m.Initrd}, {"overlay", m.Overlay}, {"image", m.Image}}
	for _, f := range files {
		// netbootd keeps the files that are named, although another boot needs none.
		if m.Boot == BootInstall || f.blob != (Blob{}) {
			v.blob(f.name, f.blob)
		}
	}
	switch m.Boot {
	case BootDisk, BootNone:
		return
	case BootInstall:
	default:
		v.fail("boot", "%q is not one of %s, %s, %s", m.Boot, BootInstall, BootDisk, BootNone)
		return
	}
	if !ValidDigest(m.ImagePin) {
		v.fail("imagePin", "%q is not sha256:<64 hex digits>", m.ImagePin)
	}
	if m.Handoff != "" && m.Handoff != "Reset" && m.Handoff != "Kexec" {
		v.fail("handoff", "%q is not Reset or Kexec", m.Handoff)
	}
	v.installation(m)
}

func (v *validator) text(field string, b Blob, limit int64) {
	switch {
	case b == Blob{}:
	case !ValidTextDigest(b.Digest):
		v.fail(field+".digest", "%q is not hmac-sha256:<64 hex digits>", b.Digest)
	case b.Size <= 0 || b.Size > limit:
		v.fail(field+".size", "%d is not between 1 and %d", b.Size, limit)
	}
}

func (v *validator) blob(field string, b Blob) {
	if !ValidDigest(b.Digest) {
		v.fail(field+".digest", "%q is not sha256:<64 hex digits>", b.Digest)
	}
	if b.Size <= 0 {
		v.fail(field+".size", "%d is not positive", b.Size)
	}
}

func (v *validator) architecture(field, arch string) {
	if arch != "x86_64" && arch != "aarch64" {
		v.fail(field, "%q is not x86_64 or aarch64", arch)
	}
}

// ValidUID reports whether s is 1 to 128 letters, digits, dots, underscores or dashes,
// and a file name of its own: it does not begin with a dot.
func ValidUID(s string) bool { return uidPattern.MatchString(s) }

// ParseMAC parses a unicast Ethernet address.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a MAC address", s)
	}
	if len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("%q is not a unicast Ethernet address", s)
	}
	return mac, nil
}

// hostOf reports whether a is an address of p's network other than its
// network and broadcast addresses.
func hostOf(p netip.Prefix, a netip.Addr) bool {
	if !p.IsValid() || !a.Is4() || !p.Contains(a) || !p.Addr().Is4() {
		return false
	}
	network := p.Masked().Addr()
	bytes := network.As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	for i := range bytes {
		bytes[i] |= byte(host >> (8 * (3 - i)))
	}
	return a != network && a != netip.AddrFrom4(bytes)
}
