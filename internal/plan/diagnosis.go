// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/seriallog"
)

// findingReason maps kinds of findings to reasons of the API. A kind without an
// entry explains the observed reason but does not replace it.
var findingReason = map[seriallog.Kind]string{
	seriallog.NothingToBoot:    v1alpha1.ReasonNothingToBoot,
	seriallog.IPXEError:        v1alpha1.ReasonIPXEError,
	seriallog.KernelPanic:      v1alpha1.ReasonGuestPanicked,
	seriallog.InitramfsShell:   v1alpha1.ReasonInitramfsShell,
	seriallog.EmergencyMode:    v1alpha1.ReasonEmergencyMode,
	seriallog.InstallerError:   v1alpha1.ReasonInstallerError,
	seriallog.NoSpace:          v1alpha1.ReasonNoSpace,
	seriallog.ChecksumMismatch: v1alpha1.ReasonChecksumMismatch,
	seriallog.CloudInitFailed:  v1alpha1.ReasonCloudInitFailed,

	seriallog.NoRootDisk:        v1alpha1.ReasonNoRootDisk,
	seriallog.UnsupportedLayout: v1alpha1.ReasonUnsupportedLayout,
}

var bootPhases = []v1alpha1.TargetPhase{v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting}

// IsBooting reports whether a target in phase p is booting or installing, so that
// its serial log can explain why it does not become Ready.
func IsBooting(p v1alpha1.TargetPhase) bool { return slices.Contains(bootPhases, p) }

// bootFinding returns the finding in the serial log if the target is booting;
// programs on a Ready machine may print anything.
func bootFinding(p v1alpha1.TargetPhase, o TargetObservation) *seriallog.Finding {
	if !IsBooting(p) {
		return nil
	}
	return o.Diagnosis
}

// bootFailed returns why the current boot cannot succeed, or nil while it still
// can.
func bootFailed(t *v1alpha1.BareMetalTarget, o TargetObservation) *seriallog.Finding {
	step := CurrentStep(t, o)
	if f := bootFinding(step.Phase, o); f != nil && f.Ended {
		return f
	}
	if o.Machine.GuestPanicked {
		return &seriallog.Finding{Kind: seriallog.KernelPanic, Ended: true,
			Explanation: "the guest's kernel panicked but printed nothing on the serial console; check the machine's screen"}
	}
	return nil
}

// fail records that the current boot cannot succeed.
func (out *TargetOutcome) fail(f seriallog.Finding) {
	out.Ended = true
	out.Stalled = true
	out.Reason = findingReason[f.Kind]
	out.Message = f.Explanation
	out.Lines = f.Lines
}

// MessageWithLog returns an outcome's message followed by the lines of the serial log
// that support it.
func MessageWithLog(out TargetOutcome) string {
	if len(out.Lines) == 0 {
		return out.Message
	}
	return out.Message + "\nSerial log:\n  " + strings.Join(out.Lines, "\n  ")
}
