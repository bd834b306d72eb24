// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"fmt"

	"github.com/pxelab/pxelab/internal/imagelayout"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// configure adapts the installed system to this machine. Warnings are problems
// that do not prevent the handoff.
func (m *machine) configure(disk Disk) (warnings []string, err error) {
	m.reporter.Enter(installerapi.StagePartition, "")
	if err := rereadDisk(disk); err != nil {
		return nil, err
	}
	root, warnings, err := m.growRoot(disk, m.contents.Root)
	if err != nil {
		return nil, err
	}
	files, err := CloudInitFiles(m.plan.SeedURL, m.plan.NetworkConfig)
	if err != nil {
		return nil, errors.Join(err, root.unmount())
	}
	if !root.hasCloudInit() {
		warnings = append(warnings, "the image has no cloud-init, so nothing will configure it")
	}
	for _, f := range files {
		if err := root.write(f); err != nil {
			return nil, errors.Join(err, root.unmount())
		}
	}
	if m.plan.Handoff == "Kexec" {
		if err := m.loadKexec(disk, root); err != nil {
			warnings = append(warnings, fmt.Sprintf("resetting instead of kexec: %v", err))
		} else {
			m.kexec = true
		}
	}
	return warnings, root.unmount()
}

// growRoot grows the partition and the file system of the root, and returns it mounted.
func (m *machine) growRoot(disk Disk, found imagelayout.Partition) (r *root, warnings []string, err error) {
	grown, kept, err := m.growTable(disk, found)
	if err != nil {
		return nil, nil, fmt.Errorf("growing the partition table of %s: %w", disk.Name, err)
	}
	if kept != "" {
		warnings = append(warnings, fmt.Sprintf("the root, %s, was not grown from %s on a disk of %s: %s",
			found, megabytes(found.Size), megabytes(disk.Size), kept))
	}
	m.reporter.Enter(installerapi.StageConfigure, grown)
	m.log(grown)
	if r, err = m.mountRoot(disk, found); err != nil {
		return nil, nil, err
	}
	err = r.grow()
	switch {
	case err == nil:
		m.log(fmt.Sprintf("%s: %s fills %s", r.partition.Name, r.filesystem, megabytes(r.partition.Size)))
	case r.partition.Size-found.Size < worthGrowing:
		m.log(fmt.Sprintf("%s: %s not grown: %v", r.partition.Name, r.filesystem, err))
	default:
		warnings = append(warnings, fmt.Sprintf("the root file system, %s, is left for the installed system to grow: %v", r.filesystem, err))
	}
	return r, warnings, nil
}
