// SPDX-License-Identifier: Apache-2.0

package qemu_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/golden"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/qemu"
)

const machineID = "0b6c1f1e-8f0a-4c43-9d7e-2f6f3f0a7b11"

// described returns a machine with the host's fields filled in.
func described(arch machine.Architecture, accel machine.Accelerator) machine.Machine {
	return machine.Machine{
		ID: machineID, Name: "target-1", Architecture: arch, CPUs: 2, MemoryMiB: 2048, Accelerator: accel,
		Firmware: machine.Firmware{Code: "/fw/code.fd", CodeFormat: "raw", Vars: "/data/vars", VarsFormat: "raw"},
		Paths:    machine.NewPaths("/data", "/run/px", machineID),
	}
}

// server returns a provisioning server: an uplink and a lab NIC, a disk and a
// seed.
func server(uplink, lab machine.Backend) machine.Machine {
	m := described(machine.AArch64, machine.TCG)
	m.Disks = []machine.Disk{
		{ID: "disk0", Path: "/data/disk.qcow2", Format: "qcow2", Serial: "root", BootIndex: 1},
		{ID: "seed", Path: "/data/seed.iso", Format: "raw", ReadOnly: true},
	}
	m.NICs = []machine.NIC{
		{ID: "uplink", MAC: "52:54:00:00:00:01", Backend: uplink},
		{ID: "lab", MAC: "52:54:00:00:00:02", MTU: 9000, Backend: lab},
	}
	return m
}

// target returns a machine to install: one disk, network boot first.
func target(lab machine.Backend) machine.Machine {
	m := described(machine.X8664, machine.TCG)
	m.Disks = []machine.Disk{{ID: "disk0", Path: "/data/disk,1.raw", Format: "raw", BootIndex: 2}}
	m.NICs = []machine.NIC{{ID: "lab", MAC: "52:54:00:00:00:03", BootIndex: 1, Backend: lab}}
	return m
}

func dgram() machine.Backend {
	return machine.Backend{Dgram: &machine.Dgram{Local: "/run/px/n.qemu", Remote: "/run/px/n.switch"}}
}

func nat() machine.Backend {
	return machine.Backend{User: &machine.User{Forwards: []machine.Forward{{HostPort: 40001, GuestPort: 8443}}}}
}

func TestArgsGolden(t *testing.T) {
	sandboxed := server(nat(), dgram())
	sandboxed.Sandbox = true
	kvm := target(dgram())
	kvm.Accelerator, kvm.OnPanic = machine.KVM, machine.PanicPause
	combined := target(dgram())
	combined.Firmware = machine.Firmware{Code: "/data/vars", CodeFormat: "qcow2", CodeWritable: true}
	hvf := server(machine.Backend{VMNetShared: &machine.VMNetShared{}}, machine.Backend{VMNetHost: &machine.VMNetHost{
		NetUUID: "3f8b1a52-6c0c-4a58-9f5b-2f3b0b8f9a01"}})
	hvf.Accelerator = machine.HVF
	shared := target(machine.Backend{VMNetShared: &machine.VMNetShared{
		Start: netip.MustParseAddr("192.168.105.1"), End: netip.MustParseAddr("192.168.105.254"),
		Mask: netip.MustParseAddr("255.255.255.0"), Isolated: true,
	}})
	restricted := target(machine.Backend{User: &machine.User{
		Network: netip.MustParsePrefix("10.9.8.7/24"), Restrict: true,
		Forwards: []machine.Forward{{HostPort: 40001, GuestPort: 22}, {HostPort: 40002, GuestPort: 80}},
	}})
	offload := target(machine.Backend{Tap: &machine.Tap{Interface: "px0", Offload: true}})

	for name, m := range map[string]machine.Machine{
		"aarch64-server":            server(nat(), dgram()),
		"aarch64-server-sandbox":    sandboxed,
		"aarch64-server-hvf-vmnet":  hvf,
		"x86_64-target":             target(dgram()),
		"x86_64-target-kvm":         kvm,
		"x86_64-target-combined":    combined,
		"x86_64-target-tap":         target(machine.Backend{Tap: &machine.Tap{Interface: "px0"}}),
		"x86_64-target-tap-offload": offload,
		"x86_64-target-user":        restricted,
		"x86_64-target-vmnet":       shared,
	} {
		t.Run(name, func(t *testing.T) {
			args, err := qemu.Args(m)
			if err != nil {
				t.Fatal(err)
			}
			grouped := groups(args)
			slices.Sort(grouped)
			golden.Assert(t, strings.Join(grouped, "\n")+"\n", name+".args")
		})
	}
}

func TestInterruptController(t *testing.T) {
	for name, c := range map[string]struct {
		accelerator machine.Accelerator
		cpus        int
		want        string
	}{
		"emulated":                         {machine.TCG, 8, "virt,gic-version=2"},
		"emulated, too many for version 2": {machine.TCG, 9, "virt,gic-version=max"},
		"virtualized":                      {machine.KVM, 2, "virt,gic-version=max"},
	} {
		m := server(nat(), dgram())
		m.Accelerator, m.CPUs = c.accelerator, c.cpus
		args, err := qemu.Args(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := args[slices.Index(args, "-machine")+1]; got != c.want {
			t.Errorf("%s: got machine %s, want %s", name, got, c.want)
		}
	}
}

// groups joins each option and its value.
func groups(args []string) []string {
	var out []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			out = append(out, a)
		} else {
			out[len(out)-1] += " " + a
		}
	}
	return out
}

func TestArgsRefuses(t *testing.T) {
	long := "/run/" + strings.Repeat("x", hostfs.MaxSocketPath)
	for name, tc := range map[string]struct {
		spoil func(*machine.Machine)
		want  string
	}{
		"id":                  {func(m *machine.Machine) { m.ID = "../../etc" }, "UUID"},
		"id in capitals":      {func(m *machine.Machine) { m.ID = strings.ToUpper(m.ID) }, "lower-case"},
		"architecture":        {func(m *machine.Machine) { m.Architecture = "riscv64" }, "riscv64"},
		"no cpus":             {func(m *machine.Machine) { m.CPUs = 0 }, "cpus"},
		"too many cpus":       {func(m *machine.Machine) { m.CPUs = 4096 }, "cpus"},
		"memory":              {func(m *machine.Machine) { m.MemoryMiB = 1 }, "memory"},
		"huge memory":         {func(m *machine.Machine) { m.MemoryMiB = 1 << 40 }, "memory"},
		"name":                {func(m *machine.Machine) { m.Name = "a\nb" }, "control character"},
		"panic action":        {func(m *machine.Machine) { m.OnPanic = "shutdown" }, "onPanic"},
		"accelerator":         {func(m *machine.Machine) { m.Accelerator = "" }, "accelerator"},
		"no firmware":         {func(m *machine.Machine) { m.Firmware.Code = "" }, "firmware code"},
		"firmware format":     {func(m *machine.Machine) { m.Firmware.CodeFormat = "" }, "firmware format"},
		"variables format":    {func(m *machine.Machine) { m.Firmware.VarsFormat = "vmdk" }, "vmdk"},
		"variables path":      {func(m *machine.Machine) { m.Firmware.Vars = "vars" }, "absolute"},
		"socket path":         {func(m *machine.Machine) { m.Paths.QMP = long }, "PXELAB_RUNTIME_DIR"},
		"no serial log":       {func(m *machine.Machine) { m.Paths.SerialLog = "" }, "serial log"},
		"device id":           {func(m *machine.Machine) { m.Disks[0].ID = "disk,file=/etc/shadow" }, "device id"},
		"same device id":      {func(m *machine.Machine) { m.Disks[0].ID = "lab" }, "twice"},
		"same boot index":     {func(m *machine.Machine) { m.Disks[0].BootIndex = 1 }, "boot index 1 is used by disk0 and by lab"},
		"negative boot index": {func(m *machine.Machine) { m.Disks[0].BootIndex = -1 }, "boot index"},
		"relative disk":       {func(m *machine.Machine) { m.Disks[0].Path = "nbd:localhost:1" }, "absolute"},
		"disk format":         {func(m *machine.Machine) { m.Disks[0].Format = "" }, "raw or qcow2"},
		"serial":              {func(m *machine.Machine) { m.Disks[0].Serial = strings.Repeat("s", 21) }, "20 bytes"},
		"disk file twice": {func(m *machine.Machine) {
			m.Disks = append(m.Disks, machine.Disk{ID: "disk1", Path: m.Disks[0].Path, Format: "raw"})
		}, "writable disk file"},
		"too many disks": {func(m *machine.Machine) { m.Disks = make([]machine.Disk, 100) }, "disks"},
		"too many NICs":  {func(m *machine.Machine) { m.NICs = make([]machine.NIC, 100) }, "network cards"},
		"mac":            {func(m *machine.Machine) { m.NICs[0].MAC = "52:54" }, "48-bit"},
		"EUI-64":         {func(m *machine.Machine) { m.NICs[0].MAC = "02:00:5e:10:00:00:00:01" }, "48-bit"},
		"group mac":      {func(m *machine.Machine) { m.NICs[0].MAC = "53:54:00:00:00:01" }, "group address"},
		"same mac": {func(m *machine.Machine) {
			m.NICs = append(m.NICs, machine.NIC{ID: "b", MAC: strings.ToUpper(m.NICs[0].MAC), Backend: nat()})
		}, "mac"},
		"mtu":          {func(m *machine.Machine) { m.NICs[0].MTU = 20 }, "mtu"},
		"no backend":   {func(m *machine.Machine) { m.NICs[0].Backend = machine.Backend{} }, "0 backends"},
		"two backends": {func(m *machine.Machine) { m.NICs[0].Backend.User = &machine.User{} }, "2 backends"},
		"dgram local":  {func(m *machine.Machine) { m.NICs[0].Backend.Dgram.Local = long }, "local socket of lab"},
		"dgram remote": {func(m *machine.Machine) { m.NICs[0].Backend.Dgram.Remote = "" }, "remote socket of lab"},
		"tap": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{Tap: &machine.Tap{Interface: "a,script=/x"}}
		}, "tap"},
		"net-uuid": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{VMNetHost: &machine.VMNetHost{NetUUID: "x"}}
		}, "net-uuid"},
		"vmnet range": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{VMNetShared: &machine.VMNetShared{Start: netip.MustParseAddr("10.0.0.1")}}
		}, "start, end and mask"},
		"forward without a port": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{User: &machine.User{Forwards: []machine.Forward{{GuestPort: 22}}}}
		}, "no host port"},
		"forward to port 0": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{User: &machine.User{Forwards: []machine.Forward{{HostPort: 22}}}}
		}, "ports"},
		"forwarded twice": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{User: &machine.User{
				Forwards: []machine.Forward{{HostPort: 5, GuestPort: 22}, {HostPort: 5, GuestPort: 23}},
			}}
		}, "twice"},
		"IPv6 network": {func(m *machine.Machine) {
			m.NICs[0].Backend = machine.Backend{User: &machine.User{Network: netip.MustParsePrefix("fd00::/64")}}
		}, "IPv4"},
	} {
		t.Run(name, func(t *testing.T) {
			m := target(dgram())
			if _, err := qemu.Args(m); err != nil {
				t.Fatal("the valid machine was refused:", err)
			}
			tc.spoil(&m)
			_, err := qemu.Args(m)
			if !errors.Is(err, machine.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want ErrInvalid that contains %q", err, tc.want)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	m := target(dgram())
	same := target(dgram())
	same.Disks[0].BootIndex, same.NICs[0].BootIndex = 1, 0
	same.NICs[0].MAC = strings.ToUpper(same.NICs[0].MAC)
	same.Accelerator, same.Sandbox, same.Firmware, same.Paths = machine.KVM, true, machine.Firmware{}, machine.Paths{}
	if m.Digest() != same.Digest() {
		t.Error("the boot order or a field that the Runner fills in changes the digest")
	}
	if m.Disks[0].BootIndex != 2 || m.NICs[0].BootIndex != 1 {
		t.Error("Digest modified the machine")
	}
	for name, change := range map[string]func(*machine.Machine){
		"memory": func(m *machine.Machine) { m.MemoryMiB++ },
		"disk":   func(m *machine.Machine) { m.Disks[0].Path += "x" },
		"mtu":    func(m *machine.Machine) { m.NICs[0].MTU = 1400 },
		"remote": func(m *machine.Machine) { m.NICs[0].Backend.Dgram.Remote += "x" },
	} {
		other := target(dgram())
		change(&other)
		if m.Digest() == other.Digest() {
			t.Errorf("a different %s results in the same digest", name)
		}
	}
}

func TestBootOrder(t *testing.T) {
	if diff := cmp.Diff([]string{"lab", "disk0"}, target(dgram()).BootOrder()); diff != "" {
		t.Errorf("boot order (-want +got):\n%s", diff)
	}
	if got := described(machine.X8664, machine.TCG).BootOrder(); len(got) != 0 {
		t.Errorf("without devices: got %v, want none", got)
	}
}
