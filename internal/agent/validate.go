// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// Limits of one document. They are far above any lab and keep a mistaken or
// hostile document from filling the memory of the guest, or of the manager.
const (
	MaxMachines      = 4096
	MaxConfigBytes   = 16 << 20
	MaxStateBytes    = 16 << 20
	MaxTemplateBytes = 256 << 10
)

// ErrInvalid is wrapped by every error that says a document can't be served
// as it is; pushing it again won't help.
var ErrInvalid = errors.New("invalid document")

var (
	digestPattern  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	tokenPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{22,128}$`)
	uidPattern     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	programPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	labelPattern   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// ValidDigest reports whether s is "sha256:<64 lower-case hex digits>".
func ValidDigest(s string) bool { return digestPattern.MatchString(s) }

// Validate returns all reasons why netbootd can't serve the document, each
// naming its field, joined and wrapping ErrInvalid; nil when there are none.
// Templates are not parsed here: a bad one harms its own machine only.
func (c *Config) Validate() error {
	v := &validator{}
	v.network(&c.Network)
	v.programs(c.Programs)
	v.machines(c)
	if len(v.errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(v.errs...))
}

// Blobs lists every blob the document names, each once, in order of first use.
func (c *Config) Blobs() []Blob {
	var out []Blob
	seen := map[string]bool{}
	add := func(blobs ...Blob) {
		for _, b := range blobs {
			if b.Digest != "" && !seen[b.Digest] {
				seen[b.Digest] = true
				out = append(out, b)
			}
		}
	}
	for _, p := range c.Programs {
		add(p.Blob)
	}
	for _, m := range c.Machines {
		add(m.Kernel, m.Initrd, m.Overlay, m.Image)
	}
	return out
}

type validator struct{ errs []error }

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
		v.fail("network.mtu", "%d is not 0 and not 576 to 65535", n.MTU)
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
		v.architecture(field, p.Architecture)
		if !programPattern.MatchString(p.Name) {
			v.fail(field+".name", "%q is not a plain file name", p.Name)
		}
		if names[p.Name] || archs[p.Architecture] {
			v.fail(field, "name %q or architecture %q is there twice", p.Name, p.Architecture)
		}
		names[p.Name], archs[p.Architecture] = true, true
		v.blob(field+".blob", p.Blob)
	}
}

func (v *validator) machines(c *Config) {
	if len(c.Machines) > MaxMachines {
		v.fail("machines", "%d are more than %d", len(c.Machines), MaxMachines)
		return
	}
	owner := map[string]string{}
	unique := func(field, kind, value string) {
		key := kind + " " + value
		if first, taken := owner[key]; taken {
			v.fail(field, "%s %s is already used by %s", kind, value, first)
			return
		}
		owner[key] = field
	}
	sizes := map[string]int64{}
	for i := range c.Machines {
		m := &c.Machines[i]
		field := fmt.Sprintf("machines[%d] (%s)", i, m.Name)
		v.machine(field, c, m)
		unique(field, "uid", m.UID)
		unique(field, "token", m.Token)
		if mac, err := ParseMAC(m.MAC); err == nil {
			unique(field, "MAC", mac.String())
			if own, err := ParseMAC(c.Network.MAC); err == nil && own.String() == mac.String() {
				v.fail(field+".mac", "%s is the server's own", mac)
			}
		}
		unique(field, "address", m.Address.String())
		for _, b := range []Blob{m.Kernel, m.Initrd, m.Overlay, m.Image} {
			if size, known := sizes[b.Digest]; known && size != b.Size {
				v.fail(field, "blob %s has two sizes, %d and %d", b.Digest, size, b.Size)
			}
			sizes[b.Digest] = b.Size
		}
	}
}

func (v *validator) machine(field string, c *Config, m *Machine) {
	if !uidPattern.MatchString(m.UID) {
		v.fail(field+".uid", "%q is not 1 to 128 letters, digits, dots, dashes", m.UID)
	}
	if !tokenPattern.MatchString(m.Token) {
		// The value itself is a secret and stays out of the message.
		v.fail(field+".token", "want 22 to 128 characters of A-Z a-z 0-9 _ -")
	}
	for _, label := range strings.Split(m.Hostname, ".") {
		if !labelPattern.MatchString(label) {
			v.fail(field+".hostname", "%q is not a host name (RFC 1123)", m.Hostname)
			break
		}
	}
	if _, err := ParseMAC(m.MAC); err != nil {
		v.fail(field+".mac", "%v", err)
	}
	switch {
	case !hostOf(c.Network.Address, m.Address):
		v.fail(field+".address", "%s is not a host address of %s", m.Address, c.Network.Address.Masked())
	case m.Address == c.Network.Address.Addr():
		v.fail(field+".address", "%s is the server's own", m.Address)
	}
	v.architecture(field, m.Architecture)
	if m.Attempt == "" {
		v.fail(field+".attempt", "is empty")
	}
	for name, text := range map[string]string{
		"ipxeTemplate": m.IPXETemplate, "userDataTemplate": m.UserDataTemplate, "networkConfigTemplate": m.NetworkConfigTemplate,
	} {
		if len(text) > MaxTemplateBytes {
			v.fail(field+"."+name, "%d bytes are more than %d", len(text), MaxTemplateBytes)
		}
	}
	v.boot(field, m)
}

func (v *validator) boot(field string, m *Machine) {
	switch m.Boot {
	case BootDisk, BootNone:
		// What it was or will be installed from is kept, if it is named.
		for name, b := range map[string]Blob{"kernel": m.Kernel, "initrd": m.Initrd, "overlay": m.Overlay, "image": m.Image} {
			if b != (Blob{}) {
				v.blob(field+"."+name, b)
			}
		}
		return
	case BootInstall:
	default:
		v.fail(field+".boot", "%q is not one of %s, %s, %s", m.Boot, BootInstall, BootDisk, BootNone)
		return
	}
	v.blob(field+".kernel", m.Kernel)
	v.blob(field+".initrd", m.Initrd)
	v.blob(field+".overlay", m.Overlay)
	v.blob(field+".image", m.Image)
	if !ValidDigest(m.ImagePin) {
		v.fail(field+".imagePin", "%q is not sha256:<64 hex digits>", m.ImagePin)
	}
	if m.Handoff != "" && m.Handoff != "Reset" && m.Handoff != "Kexec" {
		v.fail(field+".handoff", "%q is not Reset or Kexec", m.Handoff)
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
		v.fail(field+".architecture", "%q is not x86_64 or aarch64", arch)
	}
}

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
