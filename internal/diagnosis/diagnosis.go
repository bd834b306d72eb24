// SPDX-License-Identifier: Apache-2.0

// Package diagnosis reads a machine's serial log for the reason why the
// machine does not go on: firmware without an offer, a failed transfer, iPXE's
// error codes, kernel panics, emergency shells, the installer's and
// cloud-init's failures.
//
// What a guest prints is anything: escape sequences, binary, endless lines, or
// words chosen to mislead. The package therefore only explains. It bounds and
// cleans all it returns and takes secrets out of it; nothing is to be done to
// another machine, and nothing on the host, because of what a log says.
package diagnosis

// Kind is what was recognised.
type Kind string

// The kinds, in the order in which a boot comes to them.
const (
	// NoOffer: the firmware got no DHCP offer that it could use.
	NoOffer Kind = "NoOffer"
	// TransferFailed: the firmware could not fetch the network boot program.
	TransferFailed Kind = "TransferFailed"
	// NothingToBoot: the firmware found nothing else to boot either.
	NothingToBoot Kind = "NothingToBoot"
	// IPXEError: iPXE gave up on a step with one of its error codes.
	IPXEError Kind = "IPXEError"
	// KernelPanic of whatever kernel ran.
	KernelPanic Kind = "KernelPanic"
	// InitramfsShell: the initramfs found no root file system and waits for
	// a person.
	InitramfsShell Kind = "InitramfsShell"
	// EmergencyMode: systemd gave up on a mount and waits for a person.
	EmergencyMode Kind = "EmergencyMode"
	// InstallerError: the installer gave up.
	InstallerError Kind = "InstallerError"
	// NoSpace: the installer found no disk that is large enough.
	NoSpace Kind = "NoSpace"
	// ChecksumMismatch: the installer got, or read back, something else than
	// was declared.
	ChecksumMismatch Kind = "ChecksumMismatch"
	// CloudInitFailed: a stage or module of cloud-init failed.
	CloudInitFailed Kind = "CloudInitFailed"
	// SSHFailed: the SSH server could not be started.
	SSHFailed Kind = "SSHFailed"
	// LoginPrompt: nothing is wrong as far as the log goes; the system is up.
	LoginPrompt Kind = "LoginPrompt"
)

// Finding is what a log says of a machine's last boot.
type Finding struct {
	Kind Kind
	// Explanation is one sentence: what happened and what to do.
	Explanation string
	// Lines are the last ones that tell of it: few, clean and short.
	Lines []string
	// Ended says that this boot comes to nothing, however long one waits.
	Ended bool
}

// Diagnose tells what the end of a serial log says of the machine's last boot.
// It reports false when it recognises nothing. It looks at the last MaxTail
// bytes; text may be anything.
func Diagnose(text []byte) (Finding, bool) {
	lines := since(clean(text), programStarts...)
	// What a program printed is past when firmware goes on without it.
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

// recognisers, those of what ends a boot first: nothing comes after it.
var recognisers = []struct {
	recognise func([]string) (Finding, bool)
	// firmware tries one way after the other, all of which are looked at.
	firmware bool
}{
	{kernelPanic, false}, {initramfsShell, false}, {emergencyMode, false}, {installerError, false},
	{cloudInitFailed, false}, {sshFailed, false}, {loginPrompt, false}, {ipxeError, false},
	{transferFailed, true}, {noOffer, true}, {nothingToBoot, true},
}

// last is the index of the last line for which match is true, -1 for none.
func last(lines []string, match func(string) bool) int {
	for i := len(lines) - 1; i >= 0; i-- {
		if match(lines[i]) {
			return i
		}
	}
	return -1
}

// upTo is line i and up to n lines before it.
func upTo(lines []string, i, n int) []string {
	return lines[max(0, i-n) : i+1]
}
