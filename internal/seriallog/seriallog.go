// SPDX-License-Identifier: Apache-2.0

package seriallog

// Kind is the kind of a Finding.
type Kind string

// The kinds, in the order of the boot phases to which they belong.
const (
	// NoOffer means that the firmware received no usable DHCP offer.
	NoOffer Kind = "NoOffer"
	// TransferFailed means that the firmware could not fetch the network boot
	// program.
	TransferFailed Kind = "TransferFailed"
	// NothingToBoot means that the firmware has no boot option left.
	NothingToBoot Kind = "NothingToBoot"
	// IPXEError means that a step failed with one of iPXE's error codes.
	IPXEError Kind = "IPXEError"
	// KernelPanic means that a kernel panicked: the installer's or the installed
	// system's.
	KernelPanic Kind = "KernelPanic"
	// InitramfsShell means that the initramfs found no root file system and
	// waits in a shell.
	InitramfsShell Kind = "InitramfsShell"
	// EmergencyMode means that systemd gave up on a unit that the boot needs and
	// waits in emergency mode.
	EmergencyMode Kind = "EmergencyMode"
	// InstallerError means that the installer failed.
	InstallerError Kind = "InstallerError"
	// NoSpace means that the installer found no disk that is large enough.
	NoSpace Kind = "NoSpace"
	// NoRootDisk means that the installer found no disk, or none that matches.
	NoRootDisk Kind = "NoRootDisk"
	// UnsupportedLayout means that the installer cannot install the image, because of
	// its partitions.
	UnsupportedLayout Kind = "UnsupportedLayout"
	// ChecksumMismatch means that the image, or the data read back from the
	// disk, does not match its digest.
	ChecksumMismatch Kind = "ChecksumMismatch"
	// CloudInitFailed means that a stage or module of cloud-init failed.
	CloudInitFailed Kind = "CloudInitFailed"
	// SSHFailed means that the SSH server could not be started.
	SSHFailed Kind = "SSHFailed"
	// LoginPrompt means that the system is up and the log shows no failure.
	LoginPrompt Kind = "LoginPrompt"
)

// Finding is the diagnosis of a machine's last boot.
type Finding struct {
	Kind Kind
	// Explanation is one sentence: what happened and what to do.
	Explanation string
	// Lines are the log lines that support the finding: few, clean and short.
	Lines []string
	// Ended reports that this boot cannot succeed, so waiting is pointless.
	Ended bool
}

// Diagnose finds the reason in the end of a serial log why the machine's last
// boot does not proceed. It returns false if it recognises nothing. It reads the
// last MaxTail bytes; text may be arbitrary bytes.
func Diagnose(text []byte) (Finding, bool) {
	lines := since(clean(text), programStarts...)
	// A program's output is obsolete once the firmware continues without it.
	present := since(lines, firmwareStarts...)
	for _, r := range recognisers {
		where := present
		if r.firmware {
			where = lines
		}
		if f, ok := r.recognise(where); ok {
			f.Lines = clipLines(f.Lines)
			return f, true
		}
	}
	return Finding{}, false
}

// recognisers are in order of precedence: those for the end of a boot first,
// because nothing follows it.
var recognisers = []struct {
	recognise func([]string) (Finding, bool)
	// firmware selects the output of all of the firmware's boot attempts, not
	// only that of the last.
	firmware bool
}{
	{kernelPanic, false}, {initramfsShell, false}, {emergencyMode, false}, {installerError, false},
	{cloudInitFailed, false}, {sshFailed, false}, {loginPrompt, false}, {ipxeError, false},
	{transferFailed, true}, {noOffer, true}, {nothingToBoot, true},
}

// last returns the index of the last line for which match is true, or -1.
func last(lines []string, match func(string) bool) int {
	for i := len(lines) - 1; i >= 0; i-- {
		if match(lines[i]) {
			return i
		}
	}
	return -1
}

// upTo returns line i and up to n lines before it.
func upTo(lines []string, i, n int) []string {
	return lines[max(0, i-n) : i+1]
}
