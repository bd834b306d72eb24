// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Where devices sit on PCI bus 0. Fixed, so that a guest's interface names and
// disk names stay when another device is added.
const (
	slotDisplay  = 0x01
	slotFirstNIC = 0x02
	slotFirst    = 0x08 // disks
	slotRNG      = 0x1c
	slotPanic    = 0x1d

	maxNICs  = slotFirst - slotFirstNIC
	maxDisks = slotRNG - slotFirst
)

// Args is the command line of the machine, without the program's name. It is a
// pure function; an error wraps [ErrInvalid] and says what to change.
//
// The machine starts paused (-S), so that whoever starts it is connected before
// the guest does anything, and a guest that powers off leaves QEMU waiting in
// the run state "shutdown", so that nobody takes a crash for a shutdown.
func Args(m Machine) ([]string, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if err := m.validateHost(); err != nil {
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

// argv is a command line in the making.
type argv []string

func (a *argv) flag(name string) { *a = append(*a, "-"+name) }

func (a *argv) add(name string, o opts) { *a = append(*a, "-"+name, o.String()) }

// opts is the value of a QEMU option: comma-separated, key=value after the
// first. QEMU doubles commas inside values.
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

func (a *argv) base(m Machine) {
	a.flag("nodefaults")
	a.flag("no-user-config")
	a.add("name", opts{}.kv("guest", cmp.Or(m.Name, m.ID)).onOff("debug-threads", true))
	a.add("uuid", opts{m.ID})
	a.add("msg", opts{}.onOff("timestamp", true))
	if m.Sandbox {
		a.add("sandbox", opts{"on"}.kv("obsolete", "deny").kv("elevateprivileges", "deny").
			kv("spawn", "deny").kv("resourcecontrol", "deny"))
	}
	a.flag("S")
	panicAction := "none"
	if m.OnPanic == PanicPause {
		panicAction = "pause"
	}
	a.add("action", opts{}.kv("reboot", "reset").kv("shutdown", "pause").kv("panic", panicAction))
	a.add("rtc", opts{}.kv("base", "utc"))
	// Arm's firmware waits three seconds for a key unless told that the wait is 0.
	a.add("boot", opts{}.onOff("menu", true).num("splash-time", 0))
	// type 1 is what a guest reads as system-manufacturer, -product-name,
	// -serial-number.
	a.add("smbios", opts{}.kv("type", "1").kv("manufacturer", "pxelab").kv("product", "pxelab").
		kv("serial", m.ID).kv("family", cmp.Or(m.Name, m.ID)))
}

func (a *argv) platform(m Machine) {
	switch m.Architecture {
	case X8664:
		// Nothing here needs system management mode (that is Secure Boot's), and
		// the HPET makes an emulated idle guest busy.
		a.add("machine", opts{"q35"}.onOff("smm", false).onOff("hpet", false).onOff("vmport", false))
	case AArch64:
		a.add("machine", opts{"virt"}.kv("gic-version", "max"))
	}
	accel := opts{string(m.Accelerator)}
	if m.Accelerator == TCG {
		accel = accel.kv("thread", "multi").num("tb-size", 512)
	}
	a.add("accel", accel)
	a.add("cpu", opts{cpuModel(m)})
	a.add("smp", opts{}.num("cpus", m.CPUs))
	a.add("m", opts{}.kv("size", strconv.Itoa(m.MemoryMiB)+"M"))
}

// cpuModel is the host's own processor where it executes the guest, else the
// richest without what is dear to emulate. Both were the cheapest measured.
func cpuModel(m Machine) string {
	if m.Accelerator != TCG {
		return "host"
	}
	if m.Architecture == AArch64 {
		// The architected hash of pointer authentication doubles the time that a
		// kernel takes to boot; the implementation-defined one costs nothing.
		return "max,pauth-impdef=on"
	}
	// Five-level paging makes every emulated page walk longer.
	return "max,la57=off"
}

func (a *argv) firmware(m Machine) {
	unit := func(unit int, path, format string, readOnly bool) {
		a.add("drive", opts{}.kv("if", "pflash").num("unit", unit).kv("format", format).
			onOff("readonly", readOnly).kv("file", path))
	}
	unit(0, m.Firmware.Code, m.Firmware.CodeFormat, !m.Firmware.CodeWritable)
	if m.Firmware.Vars != "" {
		unit(1, m.Firmware.Vars, m.Firmware.VarsFormat, false)
	}
}

// control is how people and the Runner talk to the machine.
func (a *argv) control(m Machine) {
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

func (a *argv) disk(d Disk, slot int) {
	file := opts{}.kv("driver", "file").kv("node-name", d.ID+"-file").kv("filename", d.Path).
		onOff("read-only", d.ReadOnly).onOff("cache.direct", d.Cache == CacheNone).
		onOff("cache.no-flush", false)
	node := opts{}.kv("driver", d.Format).kv("node-name", d.ID+"-node").kv("file", d.ID+"-file").
		onOff("read-only", d.ReadOnly)
	if !d.ReadOnly {
		// A guest's trim gives space back to the host, and zeroes it writes take none.
		file = file.kv("discard", "unmap")
		node = node.kv("discard", "unmap").kv("detect-zeroes", "unmap")
	}
	a.add("blockdev", file)
	a.add("blockdev", node)
	// The guest sees a volatile cache, so it knows that it must flush.
	dev := pciDevice("virtio-blk-pci", d.ID, slot).kv("drive", d.ID+"-node").onOff("write-cache", true)
	if !d.ReadOnly {
		// A write that fails stops the guest until it can succeed (see [Stall]): a
		// guest that is told of it loses its file system to a full disk of the host.
		dev = dev.kv("werror", "stop").kv("rerror", "report")
	}
	if d.Serial != "" {
		dev = dev.kv("serial", d.Serial)
	}
	a.add("device", bootIndex(dev, d.BootIndex))
}

func (a *argv) nic(n NIC, slot int) {
	host := n.ID + "-net"
	a.add("netdev", netdev(n.Backend, host))
	dev := pciDevice("virtio-net-pci", n.ID, slot).kv("netdev", host).kv("mac", n.MAC).kv("romfile", "")
	if n.MTU != 0 {
		dev = dev.num("host_mtu", n.MTU)
	}
	a.add("device", bootIndex(dev, n.BootIndex))
}

func netdev(b Backend, id string) opts {
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

// fixtures are the devices that every machine has.
func (a *argv) fixtures(m Machine) {
	a.add("object", opts{"rng-random"}.kv("id", "rng0-source").kv("filename", "/dev/urandom"))
	a.add("device", pciDevice("virtio-rng-pci", "rng0", slotRNG).kv("rng", "rng0-source"))
	switch m.Architecture {
	case X8664:
		a.add("device", pciDevice("VGA", "display0", slotDisplay))
		// The ISA device is found by every kernel's ACPI driver.
		a.add("device", opts{"pvpanic"}.kv("id", "pvpanic0"))
	case AArch64:
		// The virt machine has no VGA; ramfb gives the firmware a linear
		// framebuffer that the kernel goes on using.
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

func sortedByKey(m map[int]string) []string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
