// SPDX-License-Identifier: Apache-2.0

package installer

import "strings"

// tier says when the driver of a device is loaded. Every module costs time,
// and most devices of a machine are of no use to an installation.
type tier int

const (
	// tierFirst are network interfaces, and what a hypervisor gives a machine.
	tierFirst tier = iota + 1
	// tierDisks are controllers of real disks, and disks behind them.
	tierDisks
	// tierRest may lead to a network interface or disk: buses, USB, platform
	// devices. Loaded when the others did not suffice.
	tierRest
	// tierNever leads to neither.
	tierNever
)

// tierOf classifies a modalias.
func tierOf(modalias string) tier {
	bus, rest, ok := strings.Cut(modalias, ":")
	if !ok {
		return tierNever
	}
	if strings.Contains(modalias, "virtio,mmio") || strings.Contains(modalias, "LNRO0005") {
		return tierFirst
	}
	switch bus {
	case "pci":
		return tierOfPCI(rest)
	case "virtio":
		return tierOfVirtio(rest)
	case "vmbus", "xen":
		return tierFirst
	case "scsi":
		// Disk, simplified direct access, zoned. Neither tapes nor CD-ROMs.
		for _, t := range []string{"t-0x00", "t-0x0e", "t-0x14"} {
			if rest == t {
				return tierDisks
			}
		}
		return tierNever
	case "cpu", "dmi", "input", "hid", "serio", "rtc", "hdaudio", "snd", "wmi", "mei", "drm", "i2c", "spi":
		return tierNever
	}
	return tierRest
}

func tierOfPCI(rest string) tier {
	// v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00
	if strings.HasPrefix(rest, "v00001AF4") {
		return tierFirst // what kind it is shows behind virtio_pci
	}
	_, class, ok := strings.Cut(rest, "bc")
	if !ok || len(class) < 2 {
		return tierRest
	}
	switch class[:2] {
	case "02":
		return tierFirst
	case "01":
		return tierDisks
	case "00", "03", "04", "09", "0B", "10", "12":
		return tierNever // display, multimedia, input, processors
	case "0D", "11":
		return tierNever // wireless, signal processing
	}
	return tierRest
}

func tierOfVirtio(rest string) tier {
	switch {
	case strings.HasPrefix(rest, "d00000001v"), strings.HasPrefix(rest, "d00000002v"): // net, block
		return tierFirst
	case strings.HasPrefix(rest, "d00000008v"): // SCSI
		return tierDisks
	}
	return tierNever
}
