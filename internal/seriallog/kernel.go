// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"regexp"
	"strings"
)

var panicLine = regexp.MustCompile(`Kernel panic - not syncing: (.*)`)

// panicCauses explain a panic by its message; the first match is used.
var panicCauses = []struct{ has, explanation string }{
	{"Unable to mount root fs", "it found no root file system: the program named by rdinit= is not in the initrd, " +
		"root= is wrong, or the disk's driver is missing"},
	{"Attempted to kill init", "the init program exited or crashed"},
	{"No working init found", "it found no init program: the initrd or root file system is incomplete"},
	{"Requested init", "the program named by init= could not be run"},
	{"deadlocked on memory", "the machine ran out of memory: give it more memory"},
	{"Out of memory", "the machine ran out of memory: give it more memory"},
	{"junk within compressed archive", "its initrd is damaged"},
	{"panic_on_oom", "the machine ran out of memory: give it more memory"},
}

func kernelPanic(lines []string) (Finding, bool) {
	// The first panic is the cause. A line with "---[ end" ends its trace.
	at := -1
	for i, l := range lines {
		if panicLine.MatchString(l) && !strings.Contains(l, "---[ end") {
			at = i
			break
		}
	}
	if at < 0 {
		return Finding{}, false
	}
	message := panicLine.FindStringSubmatch(lines[at])[1]
	cause := "see the lines before it"
	for _, c := range panicCauses {
		if strings.Contains(message, c.has) {
			cause = c.explanation
			break
		}
	}
	return Finding{
		Kind: KernelPanic, Ended: true,
		Explanation: "the kernel panicked (" + clipText(message, maxLine/2) + "): " + cause +
			"; check kernel, initrd and kernelArgs of the profile",
		Lines: beforePanic(lines, at),
	}, true
}

var noise = regexp.MustCompile(`^\[ *[0-9.]+\]\s*(\S+(\s+\S+)?)?$`)

// beforePanic returns the panic's line and those before it, without lines of at
// most two words, such as the kernel's lists of file systems.
func beforePanic(lines []string, at int) []string {
	var out []string
	for i := max(0, at-10); i < at; i++ {
		if !noise.MatchString(lines[i]) {
			out = append(out, lines[i])
		}
	}
	if len(out) > maxLines-1 {
		out = out[len(out)-maxLines+1:]
	}
	return append(out, lines[at])
}

// initramfsShell finds the prompts of initramfs-tools and dracut. dracut's shell
// is systemd's emergency mode in an initramfs that waits for its root.
func initramfsShell(lines []string) (Finding, bool) {
	at := last(lines, func(l string) bool {
		return strings.HasPrefix(l, "(initramfs)") || strings.Contains(l, "Dropping to a shell!") ||
			strings.Contains(l, "/run/initramfs/rdsosreport.txt") || strings.HasPrefix(l, "dracut:/#")
	})
	if at < 0 && last(lines, func(l string) bool { return strings.Contains(l, "initrd-root-fs.target") }) >= 0 {
		at = last(lines, isEmergency)
	}
	if at < 0 {
		return Finding{}, false
	}
	f := Finding{
		Kind: InitramfsShell, Ended: true,
		Explanation: "the initramfs did not find the root file system and waits in a shell: " +
			"does root= on the image's kernel command line name a file system on the disk, and does the initrd have the disk's driver?",
		Lines: upTo(lines, at, maxLines-1),
	}
	if isEmergency(lines[at]) {
		f.Lines = withFailedUnits(lines, at)
	}
	return f, true
}

func isEmergency(l string) bool {
	return strings.Contains(l, "You are in emergency mode") || strings.Contains(l, "You are in rescue mode") ||
		strings.Contains(l, "Cannot open access to console, the root account is locked") ||
		emergencyUnit.MatchString(l)
}

var emergencyUnit = regexp.MustCompile(`^\[  OK  \] (Started emergency\.service|Reached target emergency\.target)`)

// emergencyMode finds systemd's emergency or rescue mode.
func emergencyMode(lines []string) (Finding, bool) {
	at := last(lines, isEmergency)
	if at < 0 {
		return Finding{}, false
	}
	return Finding{
		Kind: EmergencyMode, Ended: true,
		Explanation: "systemd gave up and waits in emergency mode: " +
			"a file system in /etc/fstab is missing or damaged, or a unit that the boot needs failed",
		Lines: withFailedUnits(lines, at),
	}, true
}

// withFailedUnits returns line i and the first units that failed before it,
// which usually cause the failure of the others.
func withFailedUnits(lines []string, i int) []string {
	var out []string
	for _, l := range lines[:i] {
		if failedUnit.MatchString(l) && len(out) < maxLines-1 {
			out = append(out, l)
		}
	}
	return append(out, lines[i])
}

var failedUnit = regexp.MustCompile(`^\[(FAILED|DEPEND| TIME )\] `)
