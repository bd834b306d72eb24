// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Step is an observable point in a target's lifecycle, finer than a phase.
type Step struct {
	Phase v1alpha1.TargetPhase
	// Name is human-readable, one or a few words.
	Name string
	// Stall is the reason to report when the step lasts longer than Limit.
	Stall string
	// Limit is how long the step may last, generous enough for software
	// emulation on a busy host; 0 means forever.
	Limit time.Duration
	// Advice is what to check when the step stalls.
	Advice string
}

// The steps of a target, in the order in which it passes them.
var (
	stepStopped  = Step{Phase: v1alpha1.TargetStopped, Name: "powered off"}
	stepStopping = Step{Phase: v1alpha1.TargetStopped, Name: "shutting down"}
	stepStart    = Step{Phase: v1alpha1.TargetPending, Name: "starting the machine", Stall: v1alpha1.ReasonStarting, Limit: 2 * time.Minute,
		Advice: "read the manager's log and qemu.log in the machine's directory"}
	stepReinstall = Step{Phase: v1alpha1.TargetPending, Name: "waiting to be reinstalled"}
	stepFirmware  = Step{Phase: v1alpha1.TargetPXE, Name: "firmware", Stall: v1alpha1.ReasonNoDiscover, Limit: 3 * time.Minute,
		Advice: "the firmware sent no DHCP DISCOVER; check that the server is Ready, then read the serial log"}
	stepDHCP = Step{Phase: v1alpha1.TargetPXE, Name: "DHCP", Stall: v1alpha1.ReasonNoRequest, Limit: 2 * time.Minute,
		Advice: "the firmware did not accept the DHCP offer; look for another DHCP server on the lab network"}
	stepProgram = Step{Phase: v1alpha1.TargetPXE, Name: "TFTP", Stall: v1alpha1.ReasonBootProgramNotFetched, Limit: 3 * time.Minute,
		Advice: "the firmware did not fetch the network boot program completely; read the serial log"}
	stepScript = Step{Phase: v1alpha1.TargetPXE, Name: "iPXE", Stall: v1alpha1.ReasonScriptNotFetched, Limit: 3 * time.Minute,
		Advice: "iPXE did not request its script; read the serial log for iPXE's error"}
	stepKernel = Step{Phase: v1alpha1.TargetPXE, Name: "kernel and initrd", Stall: v1alpha1.ReasonScriptNotFetched, Limit: 5 * time.Minute,
		Advice: "iPXE did not fetch kernel and initrd completely; read the serial log for iPXE's error"}
	stepInstaller = Step{Phase: v1alpha1.TargetPXE, Name: "starting installer", Stall: v1alpha1.ReasonInstallerNotStarted, Limit: 5 * time.Minute,
		Advice: "the kernel was sent but the installer did not report; read the serial log for a kernel panic or a missing driver"}
	stepInstalling = Step{Phase: v1alpha1.TargetInstalling, Stall: v1alpha1.ReasonInstallerSilent, Limit: 5 * time.Minute,
		Advice: "the installer reports no progress; read the serial log"}
	stepInstallError = Step{Phase: v1alpha1.TargetFailed, Name: "installer error", Stall: v1alpha1.ReasonInstallerError}
	stepBootDisk     = Step{Phase: v1alpha1.TargetBooting, Name: "boot from disk", Stall: v1alpha1.ReasonNoPhoneHome, Limit: 10 * time.Minute,
		Advice: "the installed system did not request its cloud-init data; read the serial log"}
	stepCloudInit = Step{Phase: v1alpha1.TargetBooting, Name: "cloud-init", Stall: v1alpha1.ReasonNoPhoneHome, Limit: 10 * time.Minute,
		Advice: "cloud-init fetched its data but did not finish; read the serial log, or log in with kubectl lab console"}
	// cloud-init phones home moments before it finishes; until then a module can
	// still fail.
	stepCloudInitFinishing = Step{Phase: v1alpha1.TargetBooting, Name: "cloud-init finishing"}
	stepCloudInitError     = Step{Phase: v1alpha1.TargetFailed, Name: "cloud-init error", Stall: v1alpha1.ReasonCloudInitFailed}
	stepSSH                = Step{Phase: v1alpha1.TargetBooting, Name: "SSH", Stall: v1alpha1.ReasonNoSSH, Limit: 5 * time.Minute,
		Advice: "the SSH port does not respond; check that the image runs an SSH server and read the serial log"}
	stepReady = Step{Phase: v1alpha1.TargetReady, Name: ""}
)

// CurrentStep returns the step that a target has reached. Unlike [TargetStatus], it
// ignores blockers, failures and time limits.
func CurrentStep(t *v1alpha1.BareMetalTarget, o TargetObservation) Step {
	switch {
	case t.Spec.Power == v1alpha1.PowerOff && o.Machine.Phase.Alive():
		return stepStopping
	case t.Spec.Power == v1alpha1.PowerOff:
		return stepStopped
	case o.OtherDisks:
		return stepReinstall
	case !o.Machine.Phase.Alive(), o.Machine.Phase == machine.PhaseStarting:
		return stepStart
	case IsInstalled(t):
		return bootStep(t, o)
	}
	return installStep(o.current())
}

// installStep returns the step after the latest event that netbootd observed,
// because earlier events may have been missed.
func installStep(seen *netbootapi.MachineState) Step {
	switch {
	case seen == nil:
		return stepFirmware
	case seen.Install != nil && seen.Install.Error != "":
		return stepInstallError
	case seen.Install != nil:
		step := stepInstalling
		// Every change of stage or bytes counts as a separate step, so that Limit
		// bounds the time without progress and not the whole installation.
		step.Name = fmt.Sprintf("%s %d", seen.Install.Stage, seen.Install.BytesWritten)
		return step
	case !seen.KernelAt.IsZero() && !seen.InitrdAt.IsZero():
		return stepInstaller
	case !seen.ScriptAt.IsZero():
		return stepKernel
	case !seen.ProgramAt.IsZero():
		return stepScript
	case !seen.RequestAt.IsZero():
		return stepProgram
	case !seen.DiscoverAt.IsZero():
		return stepDHCP
	default:
		return stepFirmware
	}
}

// bootStep returns the step of an installed machine. cloud-init phones home only
// once per instance, so one report counts for every later boot of the same
// installation.
func bootStep(t *v1alpha1.BareMetalTarget, o TargetObservation) Step {
	phoned := len(t.Status.SSHHostKeys) > 0 || (o.Seen != nil && o.Seen.PhoneHome != nil)
	switch {
	case !phoned && (o.Seen == nil || o.Seen.CloudInitAt.IsZero()):
		return stepBootDisk
	case cloudInitFailed(o.Seen, phoned):
		return stepCloudInitError
	case !phoned:
		return stepCloudInit
	case cloudInitFinishing(o):
		return stepCloudInitFinishing
	case o.Seen != nil && o.Seen.SSH.Up && o.Seen.SSH.PowerOn == o.PowerOn && o.PowerOn != "":
		return stepReady
	default:
		return stepSSH
	}
}
