// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Architectures of a machine, named as QEMU names them.
const (
	x8664   = "x86_64"
	aarch64 = "aarch64"
)

// Config describes one simulated machine for one power-on.
type Config struct {
	// UUID is the SMBIOS UUID in its canonical text form.
	UUID string
	// Architecture is "x86_64" (the default) or "aarch64".
	Architecture string
	// NICs are the machine's network cards, in its order.
	NICs []NIC
	// Disk is the machine's first disk; nil if it has none.
	Disk Disk
	// DiskID names the disk in the boot order, and DiskSerial is its serial number.
	DiskID, DiskSerial string
	// BootOrder returns the IDs of the devices to boot from. It is called at each
	// start of the firmware, and must not block.
	BootOrder func() []string
	// CPUs and MemoryMiB are what the machine's output reports.
	CPUs, MemoryMiB int
	// PowerOn counts the machine's power-ons, this one included; 0 counts as 1.
	PowerOn int
	// Options are the machine's speed and faults.
	Options Options
	// Serial receives what the machine prints on its first serial port; nil discards
	// it. A write must not block for long: it delays the machine.
	Serial io.Writer
	// OnReset is called for each reset that the guest requests itself. It must not
	// block or call the Guest.
	OnReset func(detail string)
	// OnUp is called when an installed system is up and waits; after each boot of it. It
	// must not block.
	OnUp func()
	// OnPanic is called after a panic in a goroutine of the machine other than that of
	// Run and those of the caller. The machine is to be ended; it may not work. nil does
	// not recover from the panic.
	OnPanic func(cause any)
	// Now and Random replace the clock of what the machine reports and the source of
	// its random numbers in tests. Random is not used concurrently.
	Now    func() time.Time
	Random *rand.Rand
}

// NIC is a network card.
type NIC struct {
	// ID names the card in the boot order.
	ID  string
	MAC net.HardwareAddr
	// MTU in bytes; 0 selects 1500.
	MTU int
	// Send sends a frame to the switch. It is called from several goroutines, must
	// not block and must not keep the frame. A frame that cannot be sent is lost.
	Send func(frame []byte)
}

// Disk is what a simulated disk remembers: nothing, or one installation. The data is
// opaque and a few KiB long. Calls do not overlap.
type Disk interface {
	// Load returns what was stored, nil for a blank disk.
	Load() ([]byte, error)
	// Store replaces what is stored, atomically and durably.
	Store(data []byte) error
	// Size returns the disk's size in bytes.
	Size() int64
}

// Options are the speed and the faults of a machine. The zero value is a healthy
// machine that is as fast as its host.
type Options struct {
	// LinkRate limits what the machine receives, in bytes per second; 0 is unlimited.
	LinkRate int64
	// FirmwareDelay is how long the firmware takes before it boots from the first
	// device, and BootDelay how long a kernel takes from its start until its first
	// program runs.
	FirmwareDelay, BootDelay time.Duration
	Faults                   []Fault
}

// Fault is a failure of the machine.
type Fault struct {
	Type FaultType
	// Attempts is the number of power-ons, from the first, in which the fault occurs;
	// 0 is all of them.
	Attempts int
	// Probability with which the fault occurs in each of them, from 0 to 1; 0 counts
	// as 1.
	Probability float64
}

// FaultType is a kind of failure.
type FaultType string

// The faults.
const (
	// NoDiscover: the firmware sends no DHCPDISCOVER, as if the card had no link.
	NoDiscover FaultType = "NoDiscover"
	// NoRequest: the firmware ignores the offers that it receives.
	NoRequest FaultType = "NoRequest"
	// TFTPAbort: the firmware aborts the transfer of the network boot program.
	TFTPAbort FaultType = "TFTPAbort"
	// ScriptAbort: each transfer that iPXE's script starts breaks off in its middle.
	ScriptAbort FaultType = "ScriptAbort"
	// InstallerError: the first write to the disk fails.
	InstallerError FaultType = "InstallerError"
	// InstallerStall: the installer hangs in the middle of the image.
	InstallerStall FaultType = "InstallerStall"
	// CloudInitFail: cloud-init's module that runs the user's scripts fails.
	CloudInitFail FaultType = "CloudInitFail"
	// NoPhoneHome: that module hangs, so that cloud-init never phones home.
	NoPhoneHome FaultType = "NoPhoneHome"
	// NoSSH: the installed system has no SSH server.
	NoSSH FaultType = "NoSSH"
	// PowersOff: the machine loses its power in the middle of the image, or when an
	// installed system starts.
	PowersOff FaultType = "PowersOff"
	// ResetLoop: the machine resets when a kernel starts.
	ResetLoop FaultType = "ResetLoop"
	// ForeignMAC: the machine's cards send from another MAC address than their own.
	ForeignMAC FaultType = "ForeignMAC"
)

// End is why Run returned.
type End string

const (
	// PowerOff: the machine switched itself off.
	PowerOff End = "PowerOff"
	// Stopped: the context ended, as if the power was cut.
	Stopped End = "Stopped"
)
