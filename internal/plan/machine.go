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
	"github.com/pxelab/pxelab/internal/qemu"
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

// DiskPath is the i-th disk of a machine whose files are in dir.
func DiskPath(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("disk%d.raw", i)) }

// ServerDiskPath is the disk of a provisioning VM whose files are in dir. It is
// named by what it is made from: another image is another disk.
func ServerDiskPath(dir string, s *v1alpha1.ProvisioningServer) string {
	m := s.Spec.Machine
	return filepath.Join(dir, "disk0-"+shortDigest(m.Image.URL, m.Image.Path, m.Image.Checksum, string(m.Image.Format), m.DiskSize.String())+".qcow2")
}

// SeedPath is the seed ISO of a provisioning VM whose files are in dir. It is
// named by who may log in, so that a machine shows by its description whether it
// knows them.
func SeedPath(dir string, sshKeys []string) string {
	return filepath.Join(dir, "seed-"+shortDigest(sshKeys...)+".iso")
}

// shortDigest tells texts apart in file names of one directory.
func shortDigest(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// ServerMachine describes the VM of a server: uplink and lab NIC, a qcow2 disk
// over the image, and the seed. dir is where its files are, sshKeys who may log
// in, lab what its lab NIC is plugged into.
func ServerMachine(s *v1alpha1.ProvisioningServer, n Network, dir string, sshKeys []string, lab qemu.Backend) qemu.Machine {
	uid := string(s.UID)
	return qemu.Machine{
		ID:           uid,
		Name:         s.Namespace + "/" + s.Name,
		Architecture: qemu.Architecture(s.Spec.Machine.Architecture),
		CPUs:         int(s.Spec.Machine.CPUs),
		MemoryMiB:    mebibytes(s.Spec.Machine.Memory),
		Disks: []qemu.Disk{
			{ID: DeviceRoot, Path: ServerDiskPath(dir, s), Format: "qcow2", BootIndex: 1},
			{ID: DeviceSeed, Path: SeedPath(dir, sshKeys), Format: "raw", ReadOnly: true},
		},
		NICs: []qemu.NIC{
			{ID: DeviceUplink, MAC: MAC(uid, DeviceUplink), Backend: uplink(n)},
			{ID: DeviceLab, MAC: MAC(uid, DeviceLab), MTU: n.MTU, Backend: lab},
		},
	}
}

// uplink is user-mode NAT everywhere: it needs no rights on any host, and the
// manager reaches the agent through its forwarded port.
func uplink(n Network) qemu.Backend {
	return qemu.Backend{User: &qemu.User{
		Network: Uplink,
		// Without NAT for targets the server itself needs no way out either.
		Restrict: !n.NAT,
		Forwards: []qemu.Forward{{GuestPort: AgentPort}, {GuestPort: SSHPort}},
	}}
}

// TargetMachine describes the VM of a target. netboot puts the network first
// in the boot order, else the disk is first.
func TargetMachine(t *v1alpha1.BareMetalTarget, n Network, mac, dir string, lab qemu.Backend, netboot bool) qemu.Machine {
	m := qemu.Machine{
		ID:           string(t.UID),
		Name:         t.Namespace + "/" + t.Name,
		Architecture: qemu.Architecture(t.Spec.Machine.Architecture),
		CPUs:         int(t.Spec.Machine.CPUs),
		MemoryMiB:    mebibytes(t.Spec.Machine.Memory),
		NICs:         []qemu.NIC{{ID: DeviceLab, MAC: mac, MTU: n.MTU, Backend: lab}},
	}
	for i := range t.Spec.Machine.Disks {
		m.Disks = append(m.Disks, qemu.Disk{ID: fmt.Sprintf("disk%d", i), Path: DiskPath(dir, i), Format: "raw"})
	}
	for place, id := range BootOrder(netboot) {
		switch id {
		case DeviceLab:
			m.NICs[0].BootIndex = place + 1
		case DeviceRoot:
			m.Disks[0].BootIndex = place + 1
		}
	}
	return m
}

// BootOrder is the device IDs a target's firmware tries. The other device stays
// as the second choice: a real machine is set up the same way, and netbootd
// sends an installed machine that comes by network on to its disk.
func BootOrder(netboot bool) []string {
	if netboot {
		return []string{DeviceLab, DeviceRoot}
	}
	return []string{DeviceRoot, DeviceLab}
}

func mebibytes(q resource.Quantity) int { return int(q.Value() >> 20) }
