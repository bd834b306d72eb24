// SPDX-License-Identifier: Apache-2.0

// Package netboot is netbootd: it composes DHCP, TFTP and HTTP into a boot
// server for the machines that the manager declares, keeps what it observes of
// them, and serves the agent protocol.
//
// What a machine boots is decided in one place, [Decide], which the DHCP
// answer, the TFTP server, the iPXE script and the installer's plan all ask,
// so that they cannot disagree. The package gives nothing to machines that
// nobody declared, and runs no program.
package netboot

import (
	"fmt"
	"strings"

	"github.com/pxelab/pxelab/internal/agent"
)

// Action is what a network boot leads to.
type Action string

// The actions.
const (
	// ActionNone: an address and nothing to boot.
	ActionNone Action = "None"
	// ActionInstall: kernel, initrd and the installer.
	ActionInstall Action = "Install"
	// ActionDisk: go on with the next boot device.
	ActionDisk Action = "Disk"
	// ActionWait: ask again until what is missing is here.
	ActionWait Action = "Wait"
)

// Reasons of decisions, which serve as reasons of warnings as well.
const (
	ReasonUnknown      = "UnknownClient"
	ReasonSwitchedOff  = "NetworkBootOff"
	ReasonArchitecture = "ArchitectureMismatch"
	ReasonNoProgram    = "ProgramMissing"
	ReasonInstalled    = "Installed"
	ReasonMissingBlobs = "BlobsMissing"
	ReasonInstall      = "InstallRequested"
)

// Decision is what one machine boots now, and why.
type Decision struct {
	Action Action
	// Machine and Program are set unless the action is None.
	Machine *agent.Machine
	Program *agent.Program
	Reason  string
	// Message is for people.
	Message string
}

// Asker is who wants to boot.
type Asker struct {
	// Machine is the declared one, nil for a client that nobody declared.
	Machine *agent.Machine
	// Architecture the client says it has: "x86_64", "aarch64", or "" when it
	// says none that is known; with Says false it was not asked.
	Architecture string
	Says         bool
}

// Decide is the policy. It is pure: config is what is in force, state what was
// observed of the machine, have tells whether a blob is here whole.
func Decide(config *agent.Config, state agent.MachineState, have func(digest string) bool, who Asker) Decision {
	m := who.Machine
	if m == nil || config == nil {
		return Decision{Action: ActionNone, Reason: ReasonUnknown, Message: "nobody declared this client"}
	}
	none := func(reason, format string, args ...any) Decision {
		return Decision{Action: ActionNone, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if m.Boot != agent.BootInstall && m.Boot != agent.BootDisk {
		return none(ReasonSwitchedOff, "network boot is switched off for %s", m.Name)
	}
	if who.Says && who.Architecture != m.Architecture {
		return none(ReasonArchitecture, "%s is declared as %s, its firmware says %q", m.Name, m.Architecture, who.Architecture)
	}
	program := programFor(config, m.Architecture)
	if program == nil || !have(program.Blob.Digest) {
		return none(ReasonNoProgram, "the network boot program for %s is not here yet", m.Architecture)
	}
	d := Decision{Machine: m, Program: program}
	switch missing := missingOf(m, have); {
	case m.Boot == agent.BootDisk:
		d.Action, d.Reason, d.Message = ActionDisk, ReasonInstalled, m.Name+" is to boot from its disk"
	case installed(m, state):
		d.Action, d.Reason, d.Message = ActionDisk, ReasonInstalled, m.Name+" is installed"
	case len(missing) > 0:
		d.Action, d.Reason = ActionWait, ReasonMissingBlobs
		d.Message = "not uploaded yet: " + strings.Join(missing, ", ")
	default:
		d.Action, d.Reason, d.Message = ActionInstall, ReasonInstall, "installing "+m.Name
	}
	return d
}

// installed reports whether this attempt's installation is done.
func installed(m *agent.Machine, state agent.MachineState) bool {
	return state.Attempt == m.Attempt && state.Install != nil && !state.Install.DoneAt.IsZero()
}

func programFor(config *agent.Config, architecture string) *agent.Program {
	for i := range config.Programs {
		if config.Programs[i].Architecture == architecture {
			return &config.Programs[i]
		}
	}
	return nil
}

func missingOf(m *agent.Machine, have func(string) bool) []string {
	var missing []string
	for _, part := range []struct {
		name string
		blob agent.Blob
	}{{"kernel", m.Kernel}, {"initrd", m.Initrd}, {"overlay", m.Overlay}, {"image", m.Image}} {
		if !have(part.blob.Digest) {
			missing = append(missing, part.name)
		}
	}
	return missing
}
