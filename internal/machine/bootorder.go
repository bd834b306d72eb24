// SPDX-License-Identifier: Apache-2.0

package machine

import "fmt"

// CheckBootOrder is nil when every ID names a device of the machine, once. Else
// the error wraps [ErrNoDevice] or [ErrInvalid].
func (m Machine) CheckBootOrder(devices []string) error {
	known := map[string]bool{}
	for _, id := range m.BootDevices() {
		known[id] = true
	}
	used := map[string]bool{}
	for _, id := range devices {
		if !known[id] {
			return fmt.Errorf("boot order of %s: %q: %w", m.ID, id, ErrNoDevice)
		}
		if used[id] {
			return invalid("boot order of %s names %s twice", m.ID, id)
		}
		used[id] = true
	}
	return nil
}

// BootDevices are the devices that can be booted from.
func (m Machine) BootDevices() []string {
	var ids []string
	for _, d := range m.Disks {
		ids = append(ids, d.ID)
	}
	for _, n := range m.NICs {
		ids = append(ids, n.ID)
	}
	return ids
}
