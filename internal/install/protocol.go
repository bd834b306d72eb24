// SPDX-License-Identifier: Apache-2.0

// Package install is the protocol between netbootd and the installer that runs
// on a machine: the kernel arguments that start it, the plan it fetches and the
// progress it reports. It holds no behaviour besides parsing and formatting.
//
// All URLs of a machine lie below one base, http://SERVER/m/TOKEN/ :
//
//	boot.ipxe       GET   the machine's iPXE script
//	kernel          GET   kernel (ranges)
//	initrd          GET   the distribution's initrd (ranges)
//	overlay         GET   cpio archive with the installer (ranges)
//	plan            GET   Plan as JSON
//	image           GET   imagestream blob (ranges, strong ETag = digest)
//	progress        POST  Progress as JSON; 204
//	ci/meta-data, ci/user-data, ci/vendor-data, ci/network-config   GET
//	phone-home      POST  cloud-init's phone_home form; 200
package install

import "fmt"

// Kernel argument names by which the iPXE script starts the installer.
const (
	// ArgURL carries the machine's base URL with a trailing slash.
	ArgURL = "pxelab.url"
	// ArgNet carries iPXE's own network settings:
	// MAC,ADDRESS/PREFIXLEN,GATEWAY,MTU with GATEWAY and MTU optional.
	ArgNet = "pxelab.net"
	// InitPath is where the overlay holds the installer; rdinit= names it.
	InitPath = "/pxelab-installer"
)

// Plan is what the installer is to do.
type Plan struct {
	// Attempt is echoed in every Progress.
	Attempt  string `json:"attempt"`
	Hostname string `json:"hostname"`
	// ImageDigest ("sha256:<hex>") and ImageSize (bytes) of the blob below
	// "image"; the digest is the blob's strong entity tag.
	ImageDigest string `json:"imageDigest"`
	ImageSize   int64  `json:"imageSize"`
	// ImagePin is what the blob's header must hash to
	// (imagestream.Header.Digest): it is checked while the image streams,
	// which a digest of the whole blob would not allow.
	ImagePin string `json:"imagePin"`
	// MTU for the lab interface while installing; 0 keeps the driver's.
	MTU int `json:"mtu,omitempty"`
	// Handoff is "Reset" or "Kexec".
	Handoff string `json:"handoff"`
	// SeedURL is what cloud-init's NoCloud data source is pointed to, with a
	// trailing slash.
	SeedURL string `json:"seedURL"`
	// NetworkConfig is cloud-init network configuration (version 2, without
	// the outer "network:" key) to be written into the installed system, so
	// that its first boot has it before any network; empty writes none.
	NetworkConfig string `json:"networkConfig,omitempty"`
}

// Stage is a step of the installation, in this order.
type Stage string

const (
	StageStart     Stage = "Start"     // installer runs and has its plan
	StageWrite     Stage = "Write"     // image is streamed to the disk
	StageVerify    Stage = "Verify"    // written extents are read back
	StagePartition Stage = "Partition" // table repaired, last partition grown
	StageConfigure Stage = "Configure" // file system grown, cloud-init pointed
	StageDone      Stage = "Done"      // disk is synced; reset or kexec follows
	StageFailed    Stage = "Failed"    // Error says why
)

// Progress is one report. The installer sends it at least once a second while
// it works. The answer to StageDone may take up to 10 s: the server waits for
// the firmware boot order to be turned to the disk.
type Progress struct {
	Attempt      string `json:"attempt"`
	Stage        Stage  `json:"stage"`
	BytesWritten int64  `json:"bytesWritten"`
	BytesTotal   int64  `json:"bytesTotal"`
	// Message is one line for people; with StageFailed the error text.
	Message string `json:"message,omitempty"`
}

// Percent of the image written, 0 to 100, rounded down.
func (p Progress) Percent() int {
	if p.BytesTotal <= 0 {
		return 0
	}
	return int(p.BytesWritten * 100 / p.BytesTotal)
}

// String is the line printed on the machine's console.
func (p Progress) String() string {
	switch p.Stage {
	case StageWrite, StageVerify:
		return fmt.Sprintf("pxelab: %s %d%% (%d/%d MB) %s", p.Stage, p.Percent(),
			p.BytesWritten/1e6, p.BytesTotal/1e6, p.Message)
	default:
		return fmt.Sprintf("pxelab: %s %s", p.Stage, p.Message)
	}
}
