// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// Architecture is a guest's instruction set, named as QEMU names it.
type Architecture string

// The architectures that pxelab runs.
const (
	X8664   Architecture = "x86_64"
	AArch64 Architecture = "aarch64"
)

// Accelerator is what executes the guest's instructions.
type Accelerator string

// The accelerators that pxelab uses. The zero Accelerator means "the best that
// works here" and is resolved by a Runner, never by [Args].
const (
	KVM Accelerator = "kvm"
	HVF Accelerator = "hvf"
	TCG Accelerator = "tcg"
	// NoGuest is that of a simulated machine, which executes no instructions.
	NoGuest Accelerator = "simulated"
)

// Kind selects the Runner of a machine.
type Kind string

const (
	// KindQEMU is a virtual machine.
	KindQEMU Kind = ""
	// KindSimulated is a machine of which only the network traffic is real.
	KindSimulated Kind = "Simulated"
)

// Machine is the complete description of a virtual machine.
//
// A caller sets the first group of fields. The second group describes the host
// rather than the machine: a Runner fills in what is left zero there, and
// [Args] demands it.
type Machine struct {
	// ID is the machine's UUID in its canonical text form. The guest sees it as
	// its SMBIOS UUID, and a Runner identifies machines by it alone.
	ID string `json:"id"`
	// Name is shown in window titles, SMBIOS and logs. Need not be unique.
	Name         string       `json:"name,omitempty"`
	Architecture Architecture `json:"architecture"`
	CPUs         int          `json:"cpus"`
	MemoryMiB    int          `json:"memoryMiB"`
	Disks        []Disk       `json:"disks,omitempty"`
	NICs         []NIC        `json:"nics,omitempty"`
	// OnPanic is what happens when the guest's kernel panics.
	OnPanic PanicAction `json:"onPanic,omitempty"`
	// Kind selects the Runner.
	Kind Kind `json:"kind,omitempty"`
	// Simulation configures a machine of KindSimulated; nil otherwise.
	Simulation *Simulation `json:"simulation,omitempty"`

	Accelerator Accelerator `json:"accelerator,omitempty"`
	Firmware    Firmware    `json:"firmware,omitzero"`
	Paths       Paths       `json:"paths,omitzero"`
	// Sandbox asks QEMU to confine itself by seccomp (Linux builds only).
	Sandbox bool `json:"sandbox,omitempty"`
}

// PanicAction is the reaction to a kernel panic of the guest. Every panic is
// reported in [State] and by an [Event].
type PanicAction string

const (
	// PanicContinue leaves the guest running, as hardware would: a guest with
	// panic=N on its kernel command line reboots by itself.
	PanicContinue PanicAction = ""
	// PanicPause freezes the guest where it panicked, for inspection.
	PanicPause PanicAction = "pause"
)

// Firmware is the UEFI firmware of a machine: a code image, and the machine's
// own variable store where the code needs one.
type Firmware struct {
	Code string `json:"code"`
	// CodeFormat is a block format, "raw" or "qcow2".
	CodeFormat string `json:"codeFormat"`
	// CodeWritable is set when code and variables are one image; Code is then
	// the machine's own copy and Vars is empty.
	CodeWritable bool   `json:"codeWritable,omitempty"`
	Vars         string `json:"vars,omitempty"`
	VarsFormat   string `json:"varsFormat,omitempty"`
}

// Disk is a virtio block device. A read-only Disk also carries a seed ISO: guests
// find one by its volume label, on either architecture, whatever bus it sits on.
type Disk struct {
	// ID names the device towards QEMU and in boot orders; see [ValidDeviceID].
	ID   string `json:"id"`
	Path string `json:"path"`
	// Format is "raw" or "qcow2". It is never probed: a guest that writes a
	// qcow2 header on a raw disk must not make QEMU follow it.
	Format   string `json:"format"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Serial is what the guest reads as the disk's serial number, 20 bytes at most.
	Serial string `json:"serial,omitempty"`
	// BootIndex is the place in the firmware's boot order, from 1; 0 is none.
	BootIndex int `json:"bootIndex,omitempty"`
}

// NIC is a virtio network card. It never carries an option ROM, so that the
// firmware's own network boot is what boots.
type NIC struct {
	// ID names the device towards QEMU and in boot orders; see [ValidDeviceID].
	ID string `json:"id"`
	// MAC is the card's 48-bit address, in text.
	MAC string `json:"mac"`
	// BootIndex is the place in the firmware's boot order, from 1; 0 is none.
	BootIndex int `json:"bootIndex,omitempty"`
	// MTU is offered to the guest's driver; 0 leaves it at the driver's default.
	MTU     int     `json:"mtu,omitempty"`
	Backend Backend `json:"backend"`
}

// Backend is what a NIC is plugged into. Exactly one field is set.
type Backend struct {
	Dgram       *Dgram       `json:"dgram,omitempty"`
	User        *User        `json:"user,omitempty"`
	Tap         *Tap         `json:"tap,omitempty"`
	VMNetHost   *VMNetHost   `json:"vmnetHost,omitempty"`
	VMNetShared *VMNetShared `json:"vmnetShared,omitempty"`
}

// Dgram carries each Ethernet frame as one UNIX datagram. QEMU binds Local
// (whatever was there is removed first) and sends to Remote, which may appear,
// vanish and reappear while the machine runs.
type Dgram struct {
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

// User is QEMU's own user-mode NAT, IPv4 only, with its own DHCP server.
type User struct {
	// Network is the guest's network; the zero Prefix means 10.0.2.0/24.
	Network netip.Prefix `json:"network,omitzero"`
	// Restrict cuts the guest off from everything but the forwards.
	Restrict bool      `json:"restrict,omitempty"`
	Forwards []Forward `json:"forwards,omitempty"`
}

// Forward makes a TCP port of the guest reachable on the host's loopback only.
type Forward struct {
	// HostPort is on 127.0.0.1. 0 lets the Runner choose a free one; the choice
	// is in [State.Forwards]. [Args] demands a port.
	HostPort  int `json:"hostPort"`
	GuestPort int `json:"guestPort"`
}

// Tap is a host tap interface that exists already and that the user may open.
type Tap struct {
	Interface string `json:"interface"`
	// Offload leaves segmentation offload on. Needs a kernel on both sides.
	Offload bool `json:"offload,omitempty"`
}

// VMNetHost is macOS' vmnet host-only network. With NetUUID macOS serves no DHCP
// of its own on it, and all machines with the same NetUUID share it.
type VMNetHost struct {
	NetUUID  string `json:"netUUID,omitempty"`
	Isolated bool   `json:"isolated,omitempty"`
}

// VMNetShared is macOS' vmnet network with NAT. Start, End and Mask are all set
// or all zero.
type VMNetShared struct {
	Start    netip.Addr `json:"start,omitzero"`
	End      netip.Addr `json:"end,omitzero"`
	Mask     netip.Addr `json:"mask,omitzero"`
	Isolated bool       `json:"isolated,omitempty"`
}

// Digest identifies what a caller described: equal descriptions have equal
// digests. The boot order is left out, because it can be changed while the
// machine runs, and so is everything a Runner fills in.
func (m Machine) Digest() string {
	m.Accelerator, m.Firmware, m.Paths, m.Sandbox = "", Firmware{}, Paths{}, false
	if m.Simulation != nil && m.Simulation.isZero() {
		m.Simulation = nil
	}
	disks, nics := m.Disks, m.NICs
	m.Disks, m.NICs = make([]Disk, len(disks)), make([]NIC, len(nics))
	copy(m.Disks, disks)
	copy(m.NICs, nics)
	for i := range m.Disks {
		m.Disks[i].BootIndex = 0
	}
	for i := range m.NICs {
		m.NICs[i].BootIndex = 0
		if mac, err := net.ParseMAC(m.NICs[i].MAC); err == nil {
			m.NICs[i].MAC = mac.String()
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		// A Machine holds nothing that JSON cannot carry.
		panic("qemu: encoding a Machine: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// BootOrder is the device IDs that have a boot index, lowest index first.
func (m Machine) BootOrder() []string {
	byIndex := map[int]string{}
	for _, d := range m.Disks {
		byIndex[d.BootIndex] = d.ID
	}
	for _, n := range m.NICs {
		byIndex[n.BootIndex] = n.ID
	}
	delete(byIndex, 0)
	return sortedByKey(byIndex)
}

// DgramSockets are the sockets that QEMU makes for the machine's NICs.
func (m Machine) DgramSockets() []string {
	var paths []string
	for _, n := range m.NICs {
		if n.Backend.Dgram != nil {
			paths = append(paths, n.Backend.Dgram.Local)
		}
	}
	return paths
}

func sortedByKey(m map[int]string) []string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
