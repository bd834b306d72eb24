// SPDX-License-Identifier: Apache-2.0

package gpt

// Kind is what a partition is for, by its type: the UEFI specification and the
// Discoverable Partitions Specification (UAPI.2) assign the GUIDs.
type Kind string

// The kinds. KindOther is a type that this package does not know, KindLinux one that
// leaves the purpose open.
const (
	KindOther    Kind = "a partition of an unknown type"
	KindLinux    Kind = "a Linux file system"
	KindRoot     Kind = "a root file system"
	KindESP      Kind = "an EFI system partition"
	KindBIOSBoot Kind = "a BIOS boot partition"
	KindPReP     Kind = "a PReP boot partition"
	KindBoot     Kind = "a boot loader partition"
	KindSwap     Kind = "swap"
	KindData     Kind = "a file system for data"
	KindLVM      Kind = "an LVM physical volume"
	KindRAID     Kind = "a RAID member"
	KindLUKS     Kind = "an encrypted volume"
)

var kinds = map[string]Kind{
	"0FC63DAF-8483-4772-8E79-3D69D8477DE4": KindLinux,
	"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": KindRoot, // x86-64
	"B921B045-1DF0-41C3-AF44-4C6F280D3FAE": KindRoot, // ARM64
	"44479540-F297-41B2-9AF7-D131D5F0458A": KindRoot, // x86
	"69DAD710-2CE4-4E3C-B16C-21A1D49ABED3": KindRoot, // ARM
	"C12A7328-F81F-11D2-BA4B-00A0C93EC93B": KindESP,
	"21686148-6449-6E6F-744E-656564454649": KindBIOSBoot,
	"9E1A2D38-C612-4316-AA26-8B49521E5A8B": KindPReP,
	"BC13C2FF-59E6-4262-A352-B275FD6F7172": KindBoot,
	"0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": KindSwap,
	"933AC7E1-2EB4-4F13-B844-0E14E2AEF915": KindData, // /home
	"3B8F8425-20E0-4F3B-907F-1A25A76F98E8": KindData, // /srv
	"4D21B016-B534-45C2-A9FB-5C16E091FD2D": KindData, // /var
	"7EC6F557-3BC5-4ACA-B293-16EF5DF639D1": KindData, // /var/tmp
	"773F91EF-66D4-49B5-BD83-D683BF40AD16": KindData, // user's home
	"8484680C-9521-48C6-9C11-B0720656F69E": KindData, // /usr, x86-64
	"B0E01050-EE5F-4390-949A-9101B17104E9": KindData, // /usr, ARM64
	"E6D6D379-F507-44C2-A23C-238F2A3DF928": KindLVM,
	"A19D880F-05FC-4D3B-A006-743F0F84911E": KindRAID,
	"CA7D7CCB-63ED-4C53-861C-1742536059CC": KindLUKS,
}

// Kind returns what the partition's type is for.
func (p Partition) Kind() Kind {
	if k, ok := kinds[p.Type.String()]; ok {
		return k
	}
	return KindOther
}
