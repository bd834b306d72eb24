// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/pxelab/pxelab/internal/machine"
)

// Slots of the devices on PCI bus 0. They are fixed so that the names of a
// guest's interfaces and disks do not change when a device is added.
const (
	slotDisplay  = 0x01
	slotFirstNIC = 0x02
	slotFirst    = 0x08 // disks
	slotRNG      = 0x1c
	slotPanic    = 0x1d
)

// These fail to compile when a machine may have more devices than slots.
const (
	_ = uint(slotFirst - slotFirstNIC - machine.MaxNICs)
	_ = uint(slotRNG - slotFirst - machine.MaxDisks)
)

// Args returns QEMU's command line for the machine, without the program's name.
// It is a pure function. An error wraps [machine.ErrInvalid] and names the field
// to change.
//
// The machine starts paused (-S), so that the caller can connect before the guest
// runs. When the guest powers off, QEMU stays in the run state "shutdown" until
// it receives "quit", which distinguishes a shutdown from a crash.
func Args(m machine.Machine) ([]string, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if err := m.ValidateHost(); err != nil {
		return nil, err
	}
	var a argv
	a.base(m)
	a.platform(m)
	a.firmware(m)
	a.control(m)
	for i, d := range m.Disks {
		a.disk(d, slotFirst+i)
	}
	for i, n := range m.NICs {
		a.nic(n, slotFirstNIC+i)
	}
	a.fixtures(m)
	return a, nil
}

// argv is a command line under construction.
type argv []string

func (a *argv) flag(name string) { *a = append(*a, "-"+name) }

func (a *argv) add(name string, o opts) { *a = append(*a, "-"+name, o.String()) }

// opts is the value of a QEMU option: comma-separated key=value pairs, the first
// of which may be a plain value. A comma inside a value is doubled.
type opts []string

func (o opts) kv(key, value string) opts {
	return append(o, key+"="+strings.ReplaceAll(value, ",", ",,"))
}

func (o opts) num(key string, value int) opts { return o.kv(key, strconv.Itoa(value)) }

func (o opts) onOff(key string, on bool) opts {
	if on {
		return o.kv(key, "on")
	}
	return o.kv(key, "off")
}

func (o opts) String() string { return strings.Join(o, ",") }

func (a *argv) base(m machine.Machine) {
	a.flag("nodefaults")
	a.flag("no-user-config")
	a.add("name", opts{}.kv("guest", cmp.Or(m.Name, m.ID)).onOff("debug-threads", true))
	a.add("uuid", opts{m.ID})
	a.add("msg", opts{}.onOff("timestamp", true))
	if m.Sandbox {
		a.add("sandbox", opts{sandboxOption})
	}
	a.flag("S")
	panicAction := "none"
	if m.OnPanic == machine.PanicPause {
		panicAction = "pause"
	}
	a.add("action", opts{}.kv("reboot", "reset").kv("shutdown", "pause").kv("panic", panicAction))
	a.add("rtc", opts{}.kv("base", "utc"))
	// Arm's firmware waits three seconds for a key unless the splash time is 0.
	a.add("boot", opts{}.onOff("menu", true).num("splash-time", 0))
	// A guest reads type 1 as system-manufacturer, system-product-name and
	// system-serial-number.
	a.add("smbios", opts{}.kv("type", "1").kv("manufacturer", "pxelab").kv("product", "pxelab").
		kv("serial", m.ID).kv("family", cmp.Or(m.Name, m.ID)))
}

func (a *argv) platform(m machine.Machine) {
	switch m.Architecture {
	case machine.X8664:
		// Only Secure Boot needs system management mode, and the HPET keeps an idle
		// emulated guest busy.
		a.add("machine", opts{"q35"}.onOff("smm", false).onOff("hpet", false).onOff("vmport", false))
	case machine.AArch64:
		a.add("machine", opts{"virt"}.kv("gic-version", gicVersion(m)))
	}
	accel := opts{string(m.Accelerator)}
	if m.Accelerator == machine.TCG {
		accel = accel.kv("thread", "multi").num("tb-size", machine.TranslationBufferMiB)
	}
	a.add("accel", accel)
	a.add("cpu", opts{cpuModel(m)})
	a.add("smp", opts{}.num("cpus", m.CPUs))
	a.add("m", opts{}.kv("size", strconv.Itoa(m.MemoryMiB)+"M"))
}

// maxGICv2 is how many processors version 2 of Arm's interrupt controller supports.
const maxGICv2 = 8

// gicVersion returns the version of Arm's interrupt controller. QEMU emulates the message
// interrupts of version 3 by reading a table of 7 KiB byte by byte at each; those of
// version 2 are interrupts as any other, but its registers are slower. Measured with QEMU
// 7.2: a TCP connection with one small request took 9 ms of a processor instead of 13, a
// boot 8 % more. A server is booted once and serves about 70 connections to each target.
func gicVersion(m machine.Machine) string {
	if m.Accelerator == machine.TCG && m.CPUs <= maxGICv2 {
		return "2"
	}
	return "max"
}

// cpuModel returns the host's CPU model under virtualization, and otherwise the
// full emulated model without the features that are expensive to emulate. Both
// were the fastest in measurements.
func cpuModel(m machine.Machine) string {
	if m.Accelerator != machine.TCG {
		return "host"
	}
	if m.Architecture == machine.AArch64 {
		// Without pointer authentication, scalable vectors and 52-bit addresses, whose
		// page walks have five levels, a boot takes a quarter less of a processor's time.
		return "max,pauth=off,sve=off,lpa2=off"
	}
	// Five-level paging lengthens every emulated page walk.
	return "max,la57=off"
}

func (a *argv) firmware(m machine.Machine) {
	unit := func(unit int, path, format string, readOnly bool) {
		a.add("drive", opts{}.kv("if", "pflash").num("unit", unit).kv("format", format).
			onOff("readonly", readOnly).kv("file", path))
	}
	unit(0, m.Firmware.Code, m.Firmware.CodeFormat, !m.Firmware.CodeWritable)
	if m.Firmware.Vars != "" {
		unit(1, m.Firmware.Vars, m.Firmware.VarsFormat, false)
	}
}

// control adds the display, the QMP monitor and the serial console.
func (a *argv) control(m machine.Machine) {
	a.add("display", opts{"none"})
	a.add("vnc", opts{"unix:" + strings.ReplaceAll(m.Paths.VNC, ",", ",,")})
	a.add("chardev", opts{"socket"}.kv("id", "qmp").kv("path", m.Paths.QMP).
		onOff("server", true).onOff("wait", false))
	a.add("mon", opts{}.kv("chardev", "qmp").kv("mode", "control"))
	a.add("chardev", opts{"socket"}.kv("id", "serial0").kv("path", m.Paths.Serial).
		onOff("server", true).onOff("wait", false).
		kv("logfile", m.Paths.SerialLog).onOff("logappend", true))
	a.add("serial", opts{"chardev:serial0"})
}

func (a *argv) disk(d machine.Disk, slot int) {
	file := opts{}.kv("driver", "file").kv("node-name", d.ID+"-file").kv("filename", d.Path).
		onOff("read-only", d.ReadOnly).onOff("cache.direct", false).
		onOff("cache.no-flush", false)
	node := opts{}.kv("driver", d.Format).kv("node-name", d.ID+"-node").kv("file", d.ID+"-file").
		onOff("read-only", d.ReadOnly)
	if !d.ReadOnly {
		// Discards return space to the host, and written zeroes use none.
		file = file.kv("discard", "unmap")
		node = node.kv("discard", "unmap").kv("detect-zeroes", "unmap")
	}
	a.add("blockdev", file)
	a.add("blockdev", node)
	// The guest sees a volatile write cache and therefore flushes it.
	dev := pciDevice("virtio-blk-pci", d.ID, slot).kv("drive", d.ID+"-node").onOff("write-cache", true)
	if !d.ReadOnly {
		// A failed write stops the guest until it can succeed (see [machine.Stall]).
		// A guest that received the error would lose its file system to a full disk
		// of the host.
		dev = dev.kv("werror", "stop").kv("rerror", "report")
	}
	if d.Serial != "" {
		dev = dev.kv("serial", d.Serial)
	}
	a.add("device", bootIndex(dev, d.BootIndex))
}

// netdevSuffix distinguishes the ID of a NIC's backend from that of the NIC.
const netdevSuffix = "-net"

func (a *argv) nic(n machine.NIC, slot int) {
	host := n.ID + netdevSuffix
	a.add("netdev", netdev(n.Backend, host))
	dev := pciDevice("virtio-net-pci", n.ID, slot).kv("netdev", host).kv("mac", n.MAC).kv("romfile", "")
	if n.MTU != 0 {
		dev = dev.num("host_mtu", n.MTU)
	}
	a.add("device", bootIndex(dev, n.BootIndex))
}

func netdev(b machine.Backend, id string) opts {
	switch {
	case b.Dgram != nil:
		return opts{"dgram"}.kv("id", id).
			kv("local.type", "unix").kv("local.path", b.Dgram.Local).
			kv("remote.type", "unix").kv("remote.path", b.Dgram.Remote)
	case b.User != nil:
		o := opts{"user"}.kv("id", id).onOff("ipv4", true).onOff("ipv6", false).
			onOff("restrict", b.User.Restrict)
		if b.User.Network.IsValid() {
			o = o.kv("net", b.User.Network.Masked().String())
		}
		for _, f := range b.User.Forwards {
			o = o.kv("hostfwd", fmt.Sprintf("tcp:127.0.0.1:%d-:%d", f.HostPort, f.GuestPort))
		}
		return o
	case b.Tap != nil:
		o := opts{"tap"}.kv("id", id).kv("ifname", b.Tap.Interface).
			kv("script", "no").kv("downscript", "no")
		if !b.Tap.Offload {
			o = o.onOff("vnet_hdr", false)
		}
		return o
	case b.VMNetHost != nil:
		o := opts{"vmnet-host"}.kv("id", id).onOff("isolated", b.VMNetHost.Isolated)
		if b.VMNetHost.NetUUID != "" {
			o = o.kv("net-uuid", b.VMNetHost.NetUUID)
		}
		return o
	default:
		o := opts{"vmnet-shared"}.kv("id", id).onOff("isolated", b.VMNetShared.Isolated)
		if b.VMNetShared.Start.IsValid() {
			o = o.kv("start-address", b.VMNetShared.Start.String()).
				kv("end-address", b.VMNetShared.End.String()).
				kv("subnet-mask", b.VMNetShared.Mask.String())
		}
		return o
	}
}

// fixtures adds the devices that every machine has.
func (a *argv) fixtures(m machine.Machine) {
	a.add("object", opts{"rng-random"}.kv("id", "rng0-source").kv("filename", "/dev/urandom"))
	a.add("device", pciDevice("virtio-rng-pci", "rng0", slotRNG).kv("rng", "rng0-source"))
	switch m.Architecture {
	case machine.X8664:
		a.add("device", pciDevice("VGA", "display0", slotDisplay))
		// Every kernel finds the ISA device through ACPI.
		a.add("device", opts{"pvpanic"}.kv("id", "pvpanic0"))
	case machine.AArch64:
		// The virt machine has no VGA; ramfb gives the firmware a linear
		// framebuffer that the kernel keeps using.
		a.add("device", opts{"ramfb"}.kv("id", "display0"))
		a.add("device", pciDevice("pvpanic-pci", "pvpanic0", slotPanic))
	}
}

func pciDevice(driver, id string, slot int) opts {
	return opts{driver}.kv("id", id).kv("bus", "pcie.0").kv("addr", fmt.Sprintf("%#x", slot))
}

func bootIndex(dev opts, index int) opts {
	if index == 0 {
		return dev
	}
	return dev.num("bootindex", index)
}
