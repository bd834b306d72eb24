// SPDX-License-Identifier: Apache-2.0

package installer

import "strings"

// tier is the order in which drivers are loaded. Every module costs time, and
// an installation needs few of a machine's devices.
type tier int

const (
	// tierFirst: network interfaces and paravirtual devices.
	tierFirst tier = iota + 1
	// tierDisks: controllers of emulated and physical disks, and their disks.
	tierDisks
	// tierRest: buses, USB and platform devices, which may have a network
	// interface or disk behind them. Loaded if the earlier tiers do not suffice.
	tierRest
	// tierNever: all other devices.
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
		// Disk, simplified direct access and zoned devices; not tapes or CD-ROMs.
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
		return tierFirst // its kind is known only once virtio_pci is loaded
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
