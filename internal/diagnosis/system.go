// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"regexp"
	"strings"
)

// installerFailed is what the installer prints on every console.
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

// Installer tells the kind of the installer's own error text, as it reports it
// to the server and prints it.
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
		f.Explanation += "; make another target with a larger first disk, or choose a smaller image"
	case has("image stream is damaged", "digest", "verifying "):
		f.Kind = ChecksumMismatch
		f.Explanation += "; nothing unverified is booted: see whether the image was changed while it was served, or the disk loses what is written"
	}
	return f
}

var (
	// cloudInitUnit is systemd's word on a stage.
	cloudInitUnit = regexp.MustCompile(`\[FAILED\] Failed to start (cloud-(?:init-local|init-network|init-main|init|config|final)\.service)`)
	// cloudInitModule is cloud-init's own word, which its stage prints.
	cloudInitModule = regexp.MustCompile(`(?:util\.py|modules\.py|cc_[a-z_]+\.py|__init__\.py|main\.py|subp\.py|performance\.py|cloud_config\.py|stages\.py|schema\.py)\[(?:WARNING|ERROR|CRITICAL)\]: (.*)`)
)

func cloudInitFailed(lines []string) (Finding, bool) {
	unit := last(lines, cloudInitUnit.MatchString)
	module := last(lines, func(l string) bool {
		m := cloudInitModule.FindStringSubmatch(l)
		return m != nil && (strings.Contains(m[1], "ailed") || strings.Contains(m[1], "rror"))
	})
	if unit < 0 && module < 0 {
		return Finding{}, false
	}
	f := Finding{Kind: CloudInitFailed, Explanation: "cloud-init failed"}
	if unit >= 0 {
		f.Explanation += " in " + cloudInitUnit.FindStringSubmatch(lines[unit])[1]
	}
	f.Explanation += ": correct the user-data and raise installGeneration; /var/log/cloud-init-output.log on the machine has all of it"
	for _, l := range lines {
		if cloudInitModule.MatchString(l) || cloudInitUnit.MatchString(l) {
			f.Lines = append(f.Lines, l)
		}
	}
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

var login = regexp.MustCompile(`^\S+ login:`)

func loginPrompt(lines []string) (Finding, bool) {
	at := last(lines, login.MatchString)
	if at < 0 {
		return Finding{}, false
	}
	return Finding{
		Kind:        LoginPrompt,
		Explanation: "the system is up and shows its login prompt",
		Lines:       lines[at : at+1],
	}, true
}
