// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"slices"
	"unicode/utf8"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// RootDisk is passed from the manager to the installer.
type RootDisk = installerapi.RootDisk

// RootPartition is passed from the manager to the installer.
type RootPartition = installerapi.RootPartition

// Hardware is passed from the installer to the manager.
type Hardware = installerapi.Hardware

func (v *validator) installation(m *Machine) {
	for name, text := range map[string]string{
		"rootDisk.name": m.RootDisk.Name, "rootDisk.serial": m.RootDisk.Serial, "rootDisk.model": m.RootDisk.Model,
		"root.label": m.Root.Label, "rootDiskName": m.RootDiskName,
	} {
		if len(text) > MaxIDBytes || !utf8.ValidString(text) {
			v.fail(name, "is longer than %d bytes or not UTF-8", MaxIDBytes)
		}
	}
	if m.RootDisk.MinSize < 0 {
		v.fail("rootDisk.minSize", "%d is negative", m.RootDisk.MinSize)
	}
	if m.Root.Number < 0 || m.Root.Number != 0 && m.Root.Label != "" {
		v.fail("root", "wants a positive number or a label")
	}
	known := []string{"", installerapi.CleanNone, installerapi.CleanMetadata, installerapi.CleanFull}
	if !slices.Contains(known, m.Cleaning) {
		v.fail("cleaning", "%q is not one of None, Metadata, Full", m.Cleaning)
	}
}
