// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/simulator/internal/guest"
)

// prepare creates the machine's sockets, opens its logs and writes its record. What it
// has created is closed by finish, also after an error.
func (m *instance) prepare() (guest.Config, error) {
	described := m.record.Machine // not changed after newInstance
	paths := described.Paths
	for _, dir := range []string{paths.Dir, paths.Sockets} {
		if err := hostfs.PrivateDir(dir); err != nil {
			return guest.Config{}, err
		}
	}
	for _, d := range described.Disks {
		// As QEMU does, which refuses a machine without the file of a disk.
		f, err := os.Open(d.Path)
		if err != nil {
			return guest.Config{}, fmt.Errorf("opening disk %s: %w", d.ID, err)
		}
		_ = f.Close()
	}
	serial, err := openSerial(paths.SerialLog, paths.Serial)
	if err != nil {
		return guest.Config{}, err
	}
	m.serial = serial
	config := guest.Config{
		UUID: m.id, Architecture: string(described.Architecture), CPUs: described.CPUs, MemoryMiB: described.MemoryMiB,
		BootOrder: m.bootOrder, PowerOn: m.record.PowerOns, Options: options(described.Simulation),
		Serial: m.serial, OnReset: m.reset, OnPanic: m.fail, Now: time.Now,
	}
	if d := diskOf(described); d != nil {
		config.Disk, config.DiskID, config.DiskSerial = disk{path: d.Path}, d.ID, d.Serial
	}
	for _, n := range described.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil {
			return config, err
		}
		if n.Backend.Dgram == nil {
			return config, fmt.Errorf("%s is not connected by datagrams", n.ID)
		}
		p, err := openPort(n.ID, *n.Backend.Dgram)
		if err != nil {
			return config, fmt.Errorf("connecting %s: %w", n.ID, err)
		}
		m.ports = append(m.ports, p)
		config.NICs = append(config.NICs, guest.NIC{ID: n.ID, MAC: mac, MTU: cmp.Or(n.MTU, 1500), Send: p.send})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.SerialOffset = m.serial.offset()
	return config, m.record.Save()
}

// options converts the description of a simulation for the guest.
func options(s *machine.Simulation) guest.Options {
	if s == nil {
		return guest.Options{}
	}
	o := guest.Options{FirmwareDelay: s.FirmwareDelay, BootDelay: s.BootDelay}
	if s.LinkRate > 0 {
		o.LinkRate = max(1, s.LinkRate/8)
	}
	for _, f := range s.Faults {
		o.Faults = append(o.Faults, guest.Fault{Type: guest.FaultType(f.Type), Attempts: f.Attempts, Probability: f.Probability})
	}
	return o
}

// diskOf returns the disk that the machine installs and boots: the writable one that is
// first in its boot order, or else its first one; nil if it has none.
func diskOf(m machine.Machine) *machine.Disk {
	var found *machine.Disk
	for i := range m.Disks {
		d := &m.Disks[i]
		first := found == nil || d.BootIndex > 0 && (found.BootIndex == 0 || d.BootIndex < found.BootIndex)
		if !d.ReadOnly && first {
			found = d
		}
	}
	return found
}

// removeSocket removes a socket of this machine that an earlier process has left.
func removeSocket(network, path string) error {
	if err := hostfs.PrivateDir(filepath.Dir(path)); err != nil {
		return err
	}
	return hostfs.RemoveStaleSocket(network, path)
}
