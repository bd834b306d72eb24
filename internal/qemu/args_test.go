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

	"github.com/pxelab/pxelab/internal/qemu"
)

const machineID = "0b6c1f1e-8f0a-4c43-9d7e-2f6f3f0a7b11"

// described is a machine with everything filled in.
func described(arch qemu.Architecture, accel qemu.Accelerator) qemu.Machine {
	return qemu.Machine{
		ID: machineID, Name: "target-1", Architecture: arch, CPUs: 2, MemoryMiB: 2048, Accelerator: accel,
		Firmware: qemu.Firmware{Code: "/fw/code.fd", CodeFormat: "raw", Vars: "/data/vars", VarsFormat: "raw"},
		Paths:    qemu.NewPaths("/data", "/run/px", machineID),
	}
}

// server is a provisioning server: an uplink and a lab network, a disk and a seed.
func server(uplink, lab qemu.Backend) qemu.Machine {
	m := described(qemu.AArch64, qemu.TCG)
	m.Disks = []qemu.Disk{
		{ID: "disk0", Path: "/data/disk.qcow2", Format: "qcow2", Serial: "root", BootIndex: 1},
		{ID: "seed", Path: "/data/seed.iso", Format: "raw", ReadOnly: true},
	}
	m.NICs = []qemu.NIC{
		{ID: "uplink", MAC: "52:54:00:00:00:01", Backend: uplink},
		{ID: "lab", MAC: "52:54:00:00:00:02", MTU: 9000, Backend: lab},
	}
	return m
}

// target is a machine to install: one disk, network boot first.
func target(lab qemu.Backend) qemu.Machine {
	m := described(qemu.X8664, qemu.TCG)
	m.Disks = []qemu.Disk{{ID: "disk0", Path: "/data/disk,1.raw", Format: "raw", BootIndex: 2, Cache: qemu.CacheNone}}
	m.NICs = []qemu.NIC{{ID: "lab", MAC: "52:54:00:00:00:03", BootIndex: 1, Backend: lab}}
	return m
}

func dgram() qemu.Backend {
	return qemu.Backend{Dgram: &qemu.Dgram{Local: "/run/px/n.qemu", Remote: "/run/px/n.switch"}}
}

func nat() qemu.Backend {
	return qemu.Backend{User: &qemu.User{Forwards: []qemu.Forward{{HostPort: 40001, GuestPort: 8443}}}}
}

func TestArgsGolden(t *testing.T) {
	sandboxed := server(nat(), dgram())
	sandboxed.Sandbox = true
	kvm := target(dgram())
	kvm.Accelerator, kvm.OnPanic = qemu.KVM, qemu.PanicPause
	combined := target(dgram())
	combined.Firmware = qemu.Firmware{Code: "/data/vars", CodeFormat: "qcow2", CodeWritable: true}
	hvf := server(qemu.Backend{VMNetShared: &qemu.VMNetShared{}}, qemu.Backend{VMNetHost: &qemu.VMNetHost{
		NetUUID: "3f8b1a52-6c0c-4a58-9f5b-2f3b0b8f9a01"}})
	hvf.Accelerator = qemu.HVF
	shared := target(qemu.Backend{VMNetShared: &qemu.VMNetShared{
		Start: netip.MustParseAddr("192.168.105.1"), End: netip.MustParseAddr("192.168.105.254"),
		Mask: netip.MustParseAddr("255.255.255.0"), Isolated: true,
	}})
	restricted := target(qemu.Backend{User: &qemu.User{
		Network: netip.MustParsePrefix("10.9.8.7/24"), Restrict: true,
		Forwards: []qemu.Forward{{HostPort: 40001, GuestPort: 22}, {HostPort: 40002, GuestPort: 80}},
	}})
	offload := target(qemu.Backend{Tap: &qemu.Tap{Interface: "px0", Offload: true}})

	for name, m := range map[string]qemu.Machine{
		"aarch64-server":            server(nat(), dgram()),
		"aarch64-server-sandbox":    sandboxed,
		"aarch64-server-hvf-vmnet":  hvf,
		"x86_64-target":             target(dgram()),
		"x86_64-target-kvm":         kvm,
		"x86_64-target-combined":    combined,
		"x86_64-target-tap":         target(qemu.Backend{Tap: &qemu.Tap{Interface: "px0"}}),
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

// groups puts each option and its value in one string.
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
	long := "/run/" + strings.Repeat("x", qemu.MaxSocketPath)
	for name, tc := range map[string]struct {
		spoil func(*qemu.Machine)
		says  string
	}{
		"id":                  {func(m *qemu.Machine) { m.ID = "../../etc" }, "UUID"},
		"id in capitals":      {func(m *qemu.Machine) { m.ID = strings.ToUpper(m.ID) }, "lower-case"},
		"architecture":        {func(m *qemu.Machine) { m.Architecture = "riscv64" }, "riscv64"},
		"no cpus":             {func(m *qemu.Machine) { m.CPUs = 0 }, "cpus"},
		"too many cpus":       {func(m *qemu.Machine) { m.CPUs = 4096 }, "cpus"},
		"memory":              {func(m *qemu.Machine) { m.MemoryMiB = 1 }, "memory"},
		"huge memory":         {func(m *qemu.Machine) { m.MemoryMiB = 1 << 40 }, "memory"},
		"name":                {func(m *qemu.Machine) { m.Name = "a\nb" }, "control character"},
		"panic action":        {func(m *qemu.Machine) { m.OnPanic = "shutdown" }, "onPanic"},
		"accelerator":         {func(m *qemu.Machine) { m.Accelerator = "" }, "accelerator"},
		"no firmware":         {func(m *qemu.Machine) { m.Firmware.Code = "" }, "firmware code"},
		"firmware format":     {func(m *qemu.Machine) { m.Firmware.CodeFormat = "" }, "firmware format"},
		"variables format":    {func(m *qemu.Machine) { m.Firmware.VarsFormat = "vmdk" }, "vmdk"},
		"variables path":      {func(m *qemu.Machine) { m.Firmware.Vars = "vars" }, "absolute"},
		"socket path":         {func(m *qemu.Machine) { m.Paths.QMP = long }, "PXELAB_RUNTIME_DIR"},
		"no serial log":       {func(m *qemu.Machine) { m.Paths.SerialLog = "" }, "serial log"},
		"device id":           {func(m *qemu.Machine) { m.Disks[0].ID = "disk,file=/etc/shadow" }, "device id"},
		"same device id":      {func(m *qemu.Machine) { m.Disks[0].ID = "lab" }, "twice"},
		"same boot index":     {func(m *qemu.Machine) { m.Disks[0].BootIndex = 1 }, "boot index 1 is used by disk0 and by lab"},
		"negative boot index": {func(m *qemu.Machine) { m.Disks[0].BootIndex = -1 }, "boot index"},
		"relative disk":       {func(m *qemu.Machine) { m.Disks[0].Path = "nbd:localhost:1" }, "absolute"},
		"disk format":         {func(m *qemu.Machine) { m.Disks[0].Format = "" }, "raw or qcow2"},
		"serial":              {func(m *qemu.Machine) { m.Disks[0].Serial = strings.Repeat("s", 21) }, "20 bytes"},
		"cache":               {func(m *qemu.Machine) { m.Disks[0].Cache = "unsafe" }, "unsafe"},
		"disk file twice": {func(m *qemu.Machine) {
			m.Disks = append(m.Disks, qemu.Disk{ID: "disk1", Path: m.Disks[0].Path, Format: "raw"})
		}, "writable disk file"},
		"too many disks": {func(m *qemu.Machine) { m.Disks = make([]qemu.Disk, 100) }, "disks"},
		"too many NICs":  {func(m *qemu.Machine) { m.NICs = make([]qemu.NIC, 100) }, "network cards"},
		"mac":            {func(m *qemu.Machine) { m.NICs[0].MAC = "52:54" }, "48-bit"},
		"EUI-64":         {func(m *qemu.Machine) { m.NICs[0].MAC = "02:00:5e:10:00:00:00:01" }, "48-bit"},
		"group mac":      {func(m *qemu.Machine) { m.NICs[0].MAC = "53:54:00:00:00:01" }, "group address"},
		"same mac": {func(m *qemu.Machine) {
			m.NICs = append(m.NICs, qemu.NIC{ID: "b", MAC: strings.ToUpper(m.NICs[0].MAC), Backend: nat()})
		}, "mac"},
		"mtu":          {func(m *qemu.Machine) { m.NICs[0].MTU = 20 }, "mtu"},
		"no backend":   {func(m *qemu.Machine) { m.NICs[0].Backend = qemu.Backend{} }, "0 backends"},
		"two backends": {func(m *qemu.Machine) { m.NICs[0].Backend.User = &qemu.User{} }, "2 backends"},
		"dgram local":  {func(m *qemu.Machine) { m.NICs[0].Backend.Dgram.Local = long }, "local socket of lab"},
		"dgram remote": {func(m *qemu.Machine) { m.NICs[0].Backend.Dgram.Remote = "" }, "remote socket of lab"},
		"tap":          {func(m *qemu.Machine) { m.NICs[0].Backend = qemu.Backend{Tap: &qemu.Tap{Interface: "a,script=/x"}} }, "tap"},
		"net-uuid":     {func(m *qemu.Machine) { m.NICs[0].Backend = qemu.Backend{VMNetHost: &qemu.VMNetHost{NetUUID: "x"}} }, "net-uuid"},
		"vmnet range": {func(m *qemu.Machine) {
			m.NICs[0].Backend = qemu.Backend{VMNetShared: &qemu.VMNetShared{Start: netip.MustParseAddr("10.0.0.1")}}
		}, "start, end and mask"},
		"forward without a port": {func(m *qemu.Machine) {
			m.NICs[0].Backend = qemu.Backend{User: &qemu.User{Forwards: []qemu.Forward{{GuestPort: 22}}}}
		}, "no host port"},
		"forward to port 0": {func(m *qemu.Machine) {
			m.NICs[0].Backend = qemu.Backend{User: &qemu.User{Forwards: []qemu.Forward{{HostPort: 22}}}}
		}, "ports"},
		"forwarded twice": {func(m *qemu.Machine) {
			m.NICs[0].Backend = qemu.Backend{User: &qemu.User{Forwards: []qemu.Forward{{5, 22}, {5, 23}}}}
		}, "twice"},
		"IPv6 network": {func(m *qemu.Machine) {
			m.NICs[0].Backend = qemu.Backend{User: &qemu.User{Network: netip.MustParsePrefix("fd00::/64")}}
		}, "IPv4"},
	} {
		t.Run(name, func(t *testing.T) {
			m := target(dgram())
			if _, err := qemu.Args(m); err != nil {
				t.Fatal("refused before it was broken:", err)
			}
			tc.spoil(&m)
			_, err := qemu.Args(m)
			if !errors.Is(err, qemu.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want ErrInvalid that says %q", err, tc.says)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	m := target(dgram())
	same := target(dgram())
	same.Disks[0].BootIndex, same.NICs[0].BootIndex = 1, 0
	same.NICs[0].MAC = strings.ToUpper(same.NICs[0].MAC)
	same.Accelerator, same.Sandbox, same.Firmware, same.Paths = qemu.KVM, true, qemu.Firmware{}, qemu.Paths{}
	if m.Digest() != same.Digest() {
		t.Error("the boot order or what the Runner fills in changes the digest")
	}
	if m.Disks[0].BootIndex != 2 || m.NICs[0].BootIndex != 1 {
		t.Error("Digest has changed the machine")
	}
	for name, change := range map[string]func(*qemu.Machine){
		"memory": func(m *qemu.Machine) { m.MemoryMiB++ },
		"disk":   func(m *qemu.Machine) { m.Disks[0].Path += "x" },
		"mtu":    func(m *qemu.Machine) { m.NICs[0].MTU = 1400 },
		"remote": func(m *qemu.Machine) { m.NICs[0].Backend.Dgram.Remote += "x" },
	} {
		other := target(dgram())
		change(&other)
		if m.Digest() == other.Digest() {
			t.Errorf("another %s gives the same digest", name)
		}
	}
}

func TestBootOrder(t *testing.T) {
	if diff := cmp.Diff([]string{"lab", "disk0"}, target(dgram()).BootOrder()); diff != "" {
		t.Error(diff)
	}
	if got := described(qemu.X8664, qemu.TCG).BootOrder(); len(got) != 0 {
		t.Errorf("of no devices: %v", got)
	}
}
