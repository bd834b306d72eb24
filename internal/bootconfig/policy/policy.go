// SPDX-License-Identifier: Apache-2.0

// Package policy decides what a machine boots. Only [Decide] makes that
// decision: the DHCP server, the TFTP server, the iPXE script and the installer
// plan all use it, so they cannot disagree. An undeclared machine is offered
// nothing to boot. The package is pure.
package policy

import (
	"fmt"
	"strings"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Action is what netbootd does with a network boot.
type Action string

// The actions.
const (
	// ActionNone assigns an address and offers nothing to boot.
	ActionNone Action = "None"
	// ActionInstall serves kernel, initrd and installer.
	ActionInstall Action = "Install"
	// ActionDisk continues with the next boot device.
	ActionDisk Action = "Disk"
	// ActionWait retries until the missing content has been uploaded.
	ActionWait Action = "Wait"
)

// Reasons of decisions; warnings use them as well.
const (
	ReasonUnknown      = "UnknownClient"
	ReasonSwitchedOff  = "NetworkBootOff"
	ReasonArchitecture = "ArchitectureMismatch"
	ReasonNoProgram    = "ProgramMissing"
	ReasonInstalled    = "Installed"
	ReasonMissingBlobs = "BlobsMissing"
	ReasonInstall      = "InstallRequested"
)

// Decision is what one machine boots, and why.
type Decision struct {
	Action Action
	// Machine and Program are set unless the action is None.
	Machine *netbootapi.Machine
	Program *netbootapi.Program
	Reason  string
	// Message is human-readable.
	Message string
}

// Client is a machine that requests a network boot.
type Client struct {
	// Machine is the declared machine; nil for an undeclared client.
	Machine *netbootapi.Machine
	// Architecture is the architecture in the client's request: "x86_64",
	// "aarch64", or "" for one that pxelab does not know. It is ignored unless
	// ArchitectureKnown is set, because not every request contains one.
	Architecture      string
	ArchitectureKnown bool
}

// Decide returns what client boots. It is pure: config is the config in force,
// state the observed state of the machine, and have reports whether a blob has
// been uploaded completely.
func Decide(config *netbootapi.ServerConfig, state netbootapi.MachineState, have func(digest string) bool, client Client) Decision {
	m := client.Machine
	if m == nil || config == nil {
		return Decision{Action: ActionNone, Reason: ReasonUnknown, Message: "this client is not declared"}
	}
	none := func(reason, format string, args ...any) Decision {
		return Decision{Action: ActionNone, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if m.Boot != netbootapi.BootInstall && m.Boot != netbootapi.BootDisk {
		return none(ReasonSwitchedOff, "network boot is disabled for %s", m.Name)
	}
	if client.ArchitectureKnown && client.Architecture != m.Architecture {
		return none(ReasonArchitecture, "%s is declared as %s, its firmware reports %q", m.Name, m.Architecture, client.Architecture)
	}
	program := programFor(config, m.Architecture)
	if program == nil || !have(program.Blob.Digest) {
		return none(ReasonNoProgram, "the network boot program for %s is not uploaded yet", m.Architecture)
	}
	d := Decision{Machine: m, Program: program}
	switch missing := missingOf(m, have); {
	case m.Boot == netbootapi.BootDisk:
		d.Action = ActionDisk
		d.Reason = ReasonInstalled
		d.Message = m.Name + " is set to boot from its disk"
	case IsInstalled(m, state):
		d.Action = ActionDisk
		d.Reason = ReasonInstalled
		d.Message = m.Name + " is installed"
	case len(missing) > 0:
		d.Action = ActionWait
		d.Reason = ReasonMissingBlobs
		d.Message = "not uploaded yet: " + strings.Join(missing, ", ")
	default:
		d.Action = ActionInstall
		d.Reason = ReasonInstall
		d.Message = "installing " + m.Name
	}
	return d
}

// IsInstalled reports whether the installation of m's attempt is complete.
func IsInstalled(m *netbootapi.Machine, state netbootapi.MachineState) bool {
	return state.Attempt == m.Attempt && state.Install != nil && !state.Install.DoneAt.IsZero()
}

// MayInstall reports whether the boot secret of m is in force: from the entry that has it
// installed until the installer is done.
func MayInstall(m *netbootapi.Machine, state netbootapi.MachineState) bool {
	return m.Boot == netbootapi.BootInstall && !IsInstalled(m, state)
}

// MaySeed reports whether the installed system of m may read its cloud-init data and
// phone home: until it has phoned home in its attempt. cloud-init keeps what it has read.
func MaySeed(m *netbootapi.Machine, state netbootapi.MachineState) bool {
	return !m.SeedEnded && (state.Attempt != m.Attempt || state.PhoneHome == nil)
}

// Installing reports whether an installation of m is in progress: from the installer's
// request for its plan until the installed system has phoned home, which is after it
// has read its data. It does not depend on whether the machine is on: a machine may
// request its plan before netbootd knows of its power-on, and one that is switched off
// after the installer was done reads its data at its next boot. A power-off before that
// ends the installation, because it clears the state.
func Installing(m *netbootapi.Machine, state netbootapi.MachineState) bool {
	return state.Attempt == m.Attempt && state.PhoneHome == nil &&
		state.ProfileDigest != "" && (state.Install == nil || state.Install.Error == "")
}

func programFor(config *netbootapi.ServerConfig, architecture string) *netbootapi.Program {
	for i := range config.Programs {
		if config.Programs[i].Architecture == architecture {
			return &config.Programs[i]
		}
	}
	return nil
}

func missingOf(m *netbootapi.Machine, have func(string) bool) []string {
	var missing []string
	for _, part := range []struct {
		name string
		blob netbootapi.Blob
	}{{"kernel", m.Kernel}, {"initrd", m.Initrd}, {"overlay", m.Overlay}, {"image", m.Image}} {
		if !have(part.blob.Digest) {
			missing = append(missing, part.name)
		}
	}
	return missing
}
