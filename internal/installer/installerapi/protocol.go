// SPDX-License-Identifier: Apache-2.0

// Package installerapi defines the protocol between netbootd and the installer that
// runs on a machine: the kernel arguments that start the installer, the plan it
// fetches and the progress it reports. Its only behaviour is formatting.
//
// The URLs of a machine have two bases of the form http://SERVER/m/TOKEN/ . That with the
// boot secret is in force until the installer is done:
//
//	boot.ipxe       GET   the machine's iPXE script
//	kernel          GET   kernel (ranges)
//	initrd          GET   the distribution's initrd (ranges)
//	overlay         GET   cpio archive with the installer (ranges)
//	plan            GET   Plan as JSON
//	image           GET   imagestream blob (ranges, strong ETag = digest)
//	progress        POST  Progress as JSON; 204
//
// That with the seed secret is in force until the installed system has phoned home; its
// cloud-init reports its progress after that as well:
//
//	ci/meta-data, ci/user-data, ci/vendor-data, ci/network-config   GET
//	phone-home      POST  cloud-init's phone_home form; 200
//	cloud-init      POST  an event of cloud-init's webhook handler; 204
//
// http://SERVER/boot.ipxe is the script of a machine that boots from its disk.
package installerapi

import "fmt"

// Kernel arguments with which the iPXE script starts the installer.
const (
	// ArgURL names the argument for the machine's base URL, which ends in a slash.
	ArgURL = "pxelab.url"
	// ArgNet names the argument for iPXE's own network settings:
	// MAC,ADDRESS/PREFIXLEN[,GATEWAY[,MTU]].
	ArgNet = "pxelab.net"
	// InitPath is the installer's path in the overlay, given to the kernel as rdinit=.
	InitPath = "/pxelab-installer"
)

// Plan describes one installation.
type Plan struct {
	// Attempt identifies the installation attempt and is echoed in every Progress.
	Attempt  string `json:"attempt"`
	Hostname string `json:"hostname"`
	// ImageDigest ("sha256:<hex>") and ImageSize (bytes) describe the blob
	// served at "image"; the digest is the blob's strong entity tag.
	ImageDigest string `json:"imageDigest"`
	ImageSize   int64  `json:"imageSize"`
	// ImagePin is the required digest of the blob's header
	// (imagestream.Header.Digest). Unlike a digest of the whole blob, it lets
	// the installer verify the image while it streams.
	ImagePin string `json:"imagePin"`
	// MTU of the lab interface during installation; 0 keeps the driver's default.
	MTU int `json:"mtu,omitempty"`
	// Handoff is how the installed system is started: "Reset" or "Kexec".
	Handoff string `json:"handoff"`
	// SeedURL is the seed URL of cloud-init's NoCloud data source; it ends in
	// a slash.
	SeedURL string `json:"seedURL"`
	// NetworkConfig is cloud-init network configuration (version 2, without
	// the outer "network:" key). The installer writes it into the installed
	// system, where the first boot needs it before there is a network; empty
	// writes none.
	NetworkConfig string `json:"networkConfig,omitempty"`
	// RootDisk selects the disk; the zero value selects the first that fits.
	RootDisk RootDisk `json:"rootDisk,omitzero"`
	// Root selects the image's root partition; the zero value lets the installer
	// search for it.
	Root RootPartition `json:"root,omitzero"`
	// Cleaning is what is erased on the disk before the image is written: CleanNone
	// (or empty), CleanMetadata or CleanFull.
	Cleaning string `json:"cleaning,omitempty"`
}

// Values of Plan.Cleaning. CleanMetadata erases partition tables and the signatures of
// file systems, LVM and RAID on the disk, CleanFull all of the disk.
const (
	CleanNone     = "None"
	CleanMetadata = "Metadata"
	CleanFull     = "Full"
)

// Stage is a step of the installation.
type Stage string

// The stages in order. StageFailed can follow any of them except StageDone, which is
// refused until the plan and the whole image were sent, and unless all bytes are written.

const (
	StageStart     Stage = "Start"     // the installer runs and fetches its plan
	StageClean     Stage = "Clean"     // the disk is erased; the bytes are those of the disk
	StageWrite     Stage = "Write"     // the image is streamed to the disk
	StageVerify    Stage = "Verify"    // written extents are read back
	StagePartition Stage = "Partition" // table repaired, root partition grown
	StageConfigure Stage = "Configure" // file system grown, cloud-init configured
	StageDone      Stage = "Done"      // the disk is synced; reset or kexec follows
	StageFailed    Stage = "Failed"    // Message is the error
)

// Progress is one report. The installer sends a report at least once a second.
// The response to StageDone may take up to 10 s, while the server waits until
// the firmware's boot order starts with the disk.
type Progress struct {
	Attempt      string `json:"attempt"`
	Stage        Stage  `json:"stage"`
	BytesWritten int64  `json:"bytesWritten"`
	BytesTotal   int64  `json:"bytesTotal"`
	// Message is one human-readable line; with StageFailed it is the error text.
	Message string `json:"message,omitempty"`
	// Waiting is why the installation makes no progress at the moment, such as disks
	// that have not appeared; empty if it does.
	Waiting string `json:"waiting,omitempty"`
	// Warnings, with StageDone, are problems of the installed system that did not
	// prevent its installation, such as a root partition that could not be grown; at
	// most MaxWarnings.
	Warnings []string `json:"warnings,omitempty"`
	// Hardware is sent until the server has accepted it once.
	Hardware *Hardware `json:"hardware,omitempty"`
}

// MaxWarnings limits Progress.Warnings.
const MaxWarnings = 8

// Percent returns how much of the image has been written, 0 to 100, rounded down.
func (p Progress) Percent() int {
	if p.BytesTotal <= 0 {
		return 0
	}
	return int(p.BytesWritten * 100 / p.BytesTotal)
}

// String returns the line that is printed on the machine's console.
func (p Progress) String() string {
	switch p.Stage {
	case StageClean, StageWrite, StageVerify:
		return fmt.Sprintf("pxelab: %s %d%% (%d/%d MB) %s", p.Stage, p.Percent(),
			p.BytesWritten/1e6, p.BytesTotal/1e6, p.Message)
	default:
		return fmt.Sprintf("pxelab: %s %s", p.Stage, p.Message)
	}
}
