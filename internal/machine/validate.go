// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// MaxDisks and MaxNICs are how many devices a machine may have.
const (
	MaxDisks = 20
	MaxNICs  = 6
)

// MaxMemoryMiB is the largest memory of a machine. A hostile or mistyped figure must not
// overflow; 16 TiB is beyond any host.
const MaxMemoryMiB = 16 << 20

const (
	maxCPUs      = 256
	minMemoryMiB = 128
	// virtio-blk's serial number is a field of 20 bytes (VIRTIO 1.2, 5.2.6.2).
	maxSerial = 20
	// IPv4 needs 68, and virtio's field has 16 bits.
	minMTU = 68
	maxMTU = 65535
)

var (
	deviceID = regexp.MustCompile(`^[a-z][a-z0-9-]{0,23}$`)
	ifName   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
)

// ValidDeviceID reports whether id can name a disk or NIC: a lower-case letter,
// then at most 23 lower-case letters, digits and dashes.
func ValidDeviceID(id string) bool { return deviceID.MatchString(id) }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// CheckID refuses an ID that is not a UUID in canonical form, because it becomes
// part of paths. The error wraps [ErrInvalid].
func CheckID(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return invalid("id %q is not a UUID in lower-case canonical form", id)
	}
	return nil
}

// Validate checks the fields that a caller sets. An error wraps [ErrInvalid] and reports what
// to change.
func (m Machine) Validate() error {
	if err := CheckID(m.ID); err != nil {
		return err
	}
	if m.Architecture != X8664 && m.Architecture != AArch64 {
		return invalid("architecture %q: must be %q or %q", m.Architecture, X8664, AArch64)
	}
	if m.CPUs < 1 || m.CPUs > maxCPUs {
		return invalid("%d cpus: must be 1 to %d", m.CPUs, maxCPUs)
	}
	if m.MemoryMiB < minMemoryMiB || m.MemoryMiB > MaxMemoryMiB {
		return invalid("memory of %d MiB: must be %d to %d", m.MemoryMiB, minMemoryMiB, MaxMemoryMiB)
	}
	if m.OnPanic != PanicContinue && m.OnPanic != PanicPause {
		return invalid("onPanic %q: must be empty or %q", m.OnPanic, PanicPause)
	}
	if err := m.validateKind(); err != nil {
		return err
	}
	if len(m.Disks) > MaxDisks {
		return invalid("%d disks: at most %d", len(m.Disks), MaxDisks)
	}
	if len(m.NICs) > MaxNICs {
		return invalid("%d network cards: at most %d", len(m.NICs), MaxNICs)
	}
	if err := text("name", m.Name); err != nil {
		return err
	}
	seen := claims{}
	for _, d := range m.Disks {
		if err := d.validate(seen); err != nil {
			return err
		}
	}
	for _, n := range m.NICs {
		if err := n.validate(seen); err != nil {
			return err
		}
	}
	return nil
}

// claims are the values that only one device of a machine may have.
type claims map[string]string

func (c claims) claim(kind, value, device string) error {
	key := kind + "\x00" + value
	if other, taken := c[key]; taken {
		return invalid("%s %s is used by %s and by %s", kind, value, other, device)
	}
	c[key] = device
	return nil
}

func (c claims) device(id string, bootIndex int) error {
	if !ValidDeviceID(id) {
		return invalid("device id %q: want a lower-case letter, then at most 23 of a-z 0-9 -", id)
	}
	if err := c.claim("device id", id, id); err != nil {
		return invalid("device id %s is used twice", id)
	}
	if bootIndex < 0 || bootIndex > 1000 {
		return invalid("boot index %d of %s: must be 0 (none) to 1000", bootIndex, id)
	}
	if bootIndex == 0 {
		return nil
	}
	return c.claim("boot index", fmt.Sprint(bootIndex), id)
}

func (d Disk) validate(seen claims) error {
	if err := seen.device(d.ID, d.BootIndex); err != nil {
		return err
	}
	if err := path("path of disk "+d.ID, d.Path); err != nil {
		return err
	}
	if d.Format != "raw" && d.Format != "qcow2" {
		return invalid("format %q of disk %s: must be raw or qcow2", d.Format, d.ID)
	}
	if len(d.Serial) > maxSerial {
		return invalid("serial %q of disk %s: at most %d bytes", d.Serial, d.ID, maxSerial)
	}
	if !d.ReadOnly {
		if err := seen.claim("writable disk file", d.Path, d.ID); err != nil {
			return err
		}
	}
	return text("serial of disk "+d.ID, d.Serial)
}

func (n NIC) validate(seen claims) error {
	if err := seen.device(n.ID, n.BootIndex); err != nil {
		return err
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 {
		return invalid("mac %q of %s is not a 48-bit address", n.MAC, n.ID)
	}
	if mac[0]&1 != 0 {
		return invalid("mac %s of %s is a group address: the lowest bit of the first byte must be 0", mac, n.ID)
	}
	if err := seen.claim("mac", mac.String(), n.ID); err != nil {
		return err
	}
	if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
		return invalid("mtu %d of %s: must be 0 or %d to %d", n.MTU, n.ID, minMTU, maxMTU)
	}
	return n.Backend.validate(n.ID)
}

func (b Backend) validate(nic string) error {
	set := 0
	for _, is := range []bool{b.Dgram != nil, b.User != nil, b.Tap != nil, b.VMNetHost != nil, b.VMNetShared != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return invalid("%s has %d backends: must have exactly one", nic, set)
	}
	switch {
	case b.Dgram != nil:
		if err := CheckSocketPath("local socket of "+nic, b.Dgram.Local); err != nil {
			return err
		}
		return CheckSocketPath("remote socket of "+nic, b.Dgram.Remote)
	case b.User != nil:
		return b.User.validate(nic)
	case b.Tap != nil:
		if !ifName.MatchString(b.Tap.Interface) {
			return invalid("tap interface %q of %s is not an interface name", b.Tap.Interface, nic)
		}
	case b.VMNetHost != nil:
		if id := b.VMNetHost.NetUUID; id != "" {
			if _, err := uuid.Parse(id); err != nil {
				return invalid("net-uuid %q of %s is not a UUID", id, nic)
			}
		}
	case b.VMNetShared != nil:
		s := b.VMNetShared
		if s.Start.IsValid() != s.End.IsValid() || s.Start.IsValid() != s.Mask.IsValid() {
			return invalid("%s: start, end and mask must be all set or all empty", nic)
		}
	}
	return nil
}

func (u *User) validate(nic string) error {
	if u.Network.IsValid() && (!u.Network.Addr().Is4() || u.Network.Bits() > 28) {
		return invalid("network %s of %s: must be IPv4 and /28 or larger", u.Network, nic)
	}
	hostPorts := map[int]bool{}
	for _, f := range u.Forwards {
		if f.GuestPort < 1 || f.GuestPort > 65535 || f.HostPort < 0 || f.HostPort > 65535 {
			return invalid("forward %d to %d of %s: ports must be 1 to 65535", f.HostPort, f.GuestPort, nic)
		}
		if f.HostPort != 0 && hostPorts[f.HostPort] {
			return invalid("host port %d of %s is forwarded twice", f.HostPort, nic)
		}
		hostPorts[f.HostPort] = true
	}
	return nil
}

// ValidateHost checks what a Runner fills in.
func (m Machine) ValidateHost() error {
	switch m.Accelerator {
	case KVM, HVF, TCG:
	default:
		return invalid("accelerator %q: must be %s, %s or %s", m.Accelerator, KVM, HVF, TCG)
	}
	if err := path("firmware code", m.Firmware.Code); err != nil {
		return err
	}
	formats := []string{m.Firmware.CodeFormat}
	if m.Firmware.Vars != "" {
		if err := path("firmware variables", m.Firmware.Vars); err != nil {
			return err
		}
		formats = append(formats, m.Firmware.VarsFormat)
	}
	for _, f := range formats {
		if f != "raw" && f != "qcow2" {
			return invalid("firmware format %q: must be raw or qcow2", f)
		}
	}
	if err := path("serial log", m.Paths.SerialLog); err != nil {
		return err
	}
	for what, p := range map[string]string{
		"QMP socket": m.Paths.QMP, "serial socket": m.Paths.Serial, "VNC socket": m.Paths.VNC,
	} {
		if err := CheckSocketPath(what, p); err != nil {
			return err
		}
	}
	for _, n := range m.NICs {
		if n.Backend.User == nil {
			continue
		}
		for _, f := range n.Backend.User.Forwards {
			if f.HostPort == 0 {
				return invalid("forward to port %d of %s has no host port", f.GuestPort, n.ID)
			}
		}
	}
	return nil
}

// path demands an absolute one: QEMU takes a relative path as meant from where
// the manager happened to stand, and some with a colon as a protocol.
func path(what, p string) error {
	if !filepath.IsAbs(p) {
		return invalid("%s %q is not an absolute path", what, p)
	}
	return text(what, p)
}

// CheckSocketPath refuses a path that is not absolute or too long for a UNIX
// socket. The error wraps [ErrInvalid] and names the socket as what.
func CheckSocketPath(what, p string) error {
	if err := path(what, p); err != nil {
		return err
	}
	if len(p) > hostfs.MaxSocketPath {
		return invalid("%s %s is %d bytes long and UNIX sockets allow %d: choose a shorter runtime directory (PXELAB_RUNTIME_DIR)",
			what, p, len(p), hostfs.MaxSocketPath)
	}
	return nil
}

// text refuses what could end a line in a log or a string in C.
func text(what, s string) error {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }); i >= 0 {
		return invalid("%s %q has a control character", what, s)
	}
	return nil
}
