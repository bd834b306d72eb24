// SPDX-License-Identifier: Apache-2.0

package seriallog

import (
	"regexp"
	"strings"
)

// installerFailed matches the installer's error on a console.
var installerFailed = regexp.MustCompile(`pxelab: Failed (.*)`)

func installerError(lines []string) (Finding, bool) {
	at := last(lines, installerFailed.MatchString)
	if at < 0 {
		return Finding{}, false
	}
	f := Installer(installerFailed.FindStringSubmatch(lines[at])[1])
	f.Lines = upTo(lines, at, 3)
	return f, true
}

// Installer returns the finding for an error text that the installer reported to
// the server or printed. The finding has no Lines.
func Installer(message string) Finding {
	f := Finding{Kind: InstallerError, Ended: true, Explanation: "the installer failed: " + clipText(redact(message), maxLine*2)}
	switch has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(message, p) {
				return true
			}
		}
		return false
	}; {
	case has("no disk for the image", "no space left on device"):
		f.Kind = NoSpace
		f.Explanation += "; make another target with a larger disk, select another with spec.rootDisk, or choose a smaller image"
	case has("no disk fits the image", "no disk found"):
		f.Kind = NoRootDisk
	case has("the image cannot be installed"):
		f.Kind = UnsupportedLayout
	case has("image stream is damaged", "digest", "verifying "):
		f.Kind = ChecksumMismatch
		f.Explanation += "; nothing unverified is booted: " +
			"check whether the image was changed while it was served, or whether the disk loses writes"
	}
	return f
}

var (
	// cloudInitUnit matches systemd's message about a failed stage.
	cloudInitUnit   = regexp.MustCompile(`\[FAILED\] Failed to start (cloud-(?:init-local|init-network|init-main|init|config|final)\.service)`)
	cloudInitModule = regexp.MustCompile(`Running module ([A-Za-z0-9_-]{1,64}) `)
	// cloudInitError matches cloud-init's own messages about a module or stage
	// that failed and about user-data that could not be parsed. Its other
	// warnings are common in successful boots.
	cloudInitError = regexp.MustCompile(`\[(?:WARNING|ERROR|CRITICAL)\]: ` +
		`(?:Running module \S+ .*failed|failed stage \S+|Consuming user data failed|Failed loading yaml blob` +
		`|Failed at merging in cloud config part .*(?:Invalid|mapping|expected))` +
		`|failed run of stage \S+`)
)

func cloudInitFailed(lines []string) (Finding, bool) {
	f := Finding{Kind: CloudInitFailed, Explanation: "cloud-init failed"}
	unit, module := "", ""
	for _, l := range lines {
		if m := cloudInitUnit.FindStringSubmatch(l); m != nil {
			unit = m[1]
			f.Lines = append(f.Lines, l)
		} else if cloudInitError.MatchString(l) {
			if m := cloudInitModule.FindStringSubmatch(l); m != nil {
				module = m[1]
			}
			f.Lines = append(f.Lines, l)
		}
	}
	if len(f.Lines) == 0 {
		return Finding{}, false
	}
	if module != "" {
		f.Explanation += " in its module " + module
	}
	if unit != "" {
		f.Explanation += ", " + unit
	}
	f.Explanation += ": correct the user-data and raise installGeneration; /var/log/cloud-init-output.log on the machine has the full output"
	return f, true
}

var sshUnit = regexp.MustCompile(`\[FAILED\] Failed to start (ssh|sshd|dropbear)\.(service|socket)`)

func sshFailed(lines []string) (Finding, bool) {
	at := last(lines, sshUnit.MatchString)
	if at < 0 {
		return Finding{}, false
	}
	return Finding{
		Kind:        SSHFailed,
		Explanation: "the SSH server could not be started: log in on the console and see \"journalctl -u ssh\"",
		Lines:       upTo(lines, at, 2),
	}, true
}

var login = regexp.MustCompile(`^\S+ login:|^\[  OK  \] Reached target (getty|multi-user)\.target`)

func loginPrompt(lines []string) (Finding, bool) {
	at := last(lines, login.MatchString)
	if at < 0 {
		return Finding{}, false
	}
	return Finding{
		Kind: LoginPrompt,
		Explanation: "the system is up according to its console: " +
			"does the image run an SSH server, does the user-data switch it off, does a firewall block it?",
		Lines: lines[at : at+1],
	}, true
}
