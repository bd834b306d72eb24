// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// Device IDs of the machines that pxelab describes.
const (
	DeviceLab    = "lab"
	DeviceUplink = "uplink"
	DeviceRoot   = "disk0"
	DeviceSeed   = "seed"
)

// Ports inside the provisioning VM that are forwarded to the host's loopback.
const (
	AgentPort = 8443
	SSHPort   = 22
)

// DiskPath returns the path of the i-th disk of a machine whose files are in dir.
func DiskPath(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("disk%d.raw", i)) }

// ServerDiskPath returns the path of the disk of a provisioning VM whose files
// are in dir. Its name depends on the image and the size, so that a change of
// either creates another disk.
func ServerDiskPath(dir string, s *v1alpha1.ProvisioningServer) string {
	m := s.Spec.Machine
	digest := shortDigest(string(m.Image.URL), string(m.Image.Path), string(m.Image.Checksum), string(m.Image.Format), canonical(m.DiskSize))
	return filepath.Join(dir, "disk0-"+digest+".qcow2")
}

// SeedPath returns the path of the seed ISO of a provisioning VM whose files are
// in dir. Its name depends on the authorized SSH keys, so that a change of the
// keys changes the description of the machine.
func SeedPath(dir string, sshKeys []string) string {
	return filepath.Join(dir, "seed-"+shortDigest(sshKeys...)+".iso")
}

// shortDigest returns a digest that is long enough to distinguish file names in
// one directory.
func shortDigest(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// ServerMachine describes the VM of a server: uplink and lab NIC, a qcow2 disk
// backed by the image, and the seed. dir contains its files, sshKeys are the
// authorized keys, and lab is the backend of its lab NIC.
func ServerMachine(s *v1alpha1.ProvisioningServer, n Network, dir string, sshKeys []string, lab machine.Backend) machine.Machine {
	uid := string(s.UID)
	return machine.Machine{
		ID:           uid,
		Name:         s.Namespace + "/" + s.Name,
		Architecture: machine.Architecture(s.Spec.Machine.Architecture),
		CPUs:         int(s.Spec.Machine.CPUs),
		MemoryMiB:    mebibytes(s.Spec.Machine.Memory),
		Disks: []machine.Disk{
			{ID: DeviceRoot, Path: ServerDiskPath(dir, s), Format: "qcow2", BootIndex: 1},
			{ID: DeviceSeed, Path: SeedPath(dir, sshKeys), Format: "raw", ReadOnly: true},
		},
		NICs: []machine.NIC{
			{ID: DeviceUplink, MAC: MAC(uid, DeviceUplink), Backend: uplink(n)},
			{ID: DeviceLab, MAC: MAC(uid, DeviceLab), MTU: n.MTU, Backend: lab},
		},
	}
}

// uplink returns user-mode NAT on every platform: it needs no privileges on the
// host, and the manager reaches netbootd through a forwarded port.
func uplink(n Network) machine.Backend {
	return machine.Backend{User: &machine.User{
		Network: Uplink,
		// Without NAT for targets, the server needs no outside access either.
		Restrict: !n.NAT,
		Forwards: []machine.Forward{{GuestPort: AgentPort}, {GuestPort: SSHPort}},
	}}
}

// TargetMachineOptions is what the VM of a target depends on besides its spec.
type TargetMachineOptions struct {
	Network Network
	// MAC is the address of the lab NIC.
	MAC string
	// Dir contains the files of the machine.
	Dir string
	// Lab is the backend of the lab NIC.
	Lab machine.Backend
	// Netboot makes the network the first boot device instead of the disk.
	Netboot bool
	// RootDisk is the place of the disk to boot from; see BootDisk.
	RootDisk int
}

// TargetMachine describes the VM of a target.
func TargetMachine(t *v1alpha1.BareMetalTarget, o TargetMachineOptions) machine.Machine {
	m := machine.Machine{
		ID:           string(t.UID),
		Name:         t.Namespace + "/" + t.Name,
		Architecture: machine.Architecture(t.Spec.Machine.Architecture),
		CPUs:         int(t.Spec.Machine.CPUs),
		MemoryMiB:    mebibytes(t.Spec.Machine.Memory),
		NICs:         []machine.NIC{{ID: DeviceLab, MAC: o.MAC, MTU: o.Network.MTU, Backend: o.Lab}},
	}
	if t.Spec.Machine.Runner == v1alpha1.RunnerSimulated {
		m.Kind, m.Simulation = machine.KindSimulated, simulation(t.Spec.Machine)
	}
	for i, serial := range DiskSerials(t) {
		m.Disks = append(m.Disks, machine.Disk{ID: DiskDevice(i), Path: DiskPath(o.Dir, i), Format: "raw", Serial: serial})
	}
	for place, id := range BootOrder(o.Netboot) {
		switch id {
		case DeviceLab:
			m.NICs[0].BootIndex = place + 1
		case DeviceRoot:
			m.Disks[o.RootDisk].BootIndex = place + 1
		}
	}
	return m
}

// ConsolesOf returns where the consoles of a target's machine are. A simulated machine
// has no screen.
func ConsolesOf(t *v1alpha1.BareMetalTarget, p machine.Paths) v1alpha1.Consoles {
	c := v1alpha1.Consoles{SerialLog: p.SerialLog, SerialSocket: p.Serial, VNCSocket: p.VNC}
	if t.Spec.Machine.Runner == v1alpha1.RunnerSimulated {
		c.VNCSocket = ""
	}
	return c
}

// BootOrder returns the device IDs that a target's firmware tries, in order. Both
// devices stay in it, as on a real machine: netbootd sends an installed machine
// that boots from the network to its disk.
func BootOrder(netboot bool) []string {
	if netboot {
		return []string{DeviceLab, DeviceRoot}
	}
	return []string{DeviceRoot, DeviceLab}
}

// canonical returns the same text for equal sizes, however they are declared.
func canonical(q resource.Quantity) string {
	return resource.NewQuantity(q.Value(), resource.BinarySI).String()
}

func mebibytes(q resource.Quantity) int { return int(q.Value() >> 20) }
