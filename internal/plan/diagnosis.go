// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/diagnosis"
)

// findingReason translates what a log says into the API's words. A kind that
// is not here explains the reason that was observed and is none by itself.
var findingReason = map[diagnosis.Kind]string{
	diagnosis.NothingToBoot:    v1alpha1.ReasonNothingToBoot,
	diagnosis.IPXEError:        v1alpha1.ReasonIPXEError,
	diagnosis.KernelPanic:      v1alpha1.ReasonGuestPanicked,
	diagnosis.InitramfsShell:   v1alpha1.ReasonInitramfsShell,
	diagnosis.EmergencyMode:    v1alpha1.ReasonEmergencyMode,
	diagnosis.InstallerError:   v1alpha1.ReasonInstallerError,
	diagnosis.NoSpace:          v1alpha1.ReasonNoSpace,
	diagnosis.ChecksumMismatch: v1alpha1.ReasonChecksumMismatch,
	diagnosis.CloudInitFailed:  v1alpha1.ReasonCloudInitFailed,
}

var bootPhases = []v1alpha1.TargetPhase{v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting}

// Boots reports whether a target in this phase is on its way to Ready, so that
// its serial log may say why it will not get there.
func Boots(p v1alpha1.TargetPhase) bool { return slices.Contains(bootPhases, p) }

// finding is what the serial log says, if a target in this phase is to be
// judged by it. What runs on a Ready machine prints what it likes.
func finding(p v1alpha1.TargetPhase, o TargetObservation) *diagnosis.Finding {
	if !Boots(p) {
		return nil
	}
	return o.Diagnosis
}

// bootFailed is why the present boot comes to nothing, however long one waits;
// nil while it may come to something.
func bootFailed(t *v1alpha1.BareMetalTarget, o TargetObservation) *diagnosis.Finding {
	step := TargetStep(t, o)
	if f := finding(step.Phase, o); f != nil && f.Ended {
		return f
	}
	if o.Machine.GuestPanicked {
		return &diagnosis.Finding{Kind: diagnosis.KernelPanic, Ended: true,
			Explanation: "the guest's kernel panicked and left no word on the serial console: see the machine's screen"}
	}
	return nil
}

// fails says that the boot comes to nothing.
func (out *TargetOutcome) fails(f diagnosis.Finding) {
	out.Ended = true
	out.Stalled, out.Reason, out.Message, out.Lines = true, findingReason[f.Kind], f.Explanation, f.Lines
}

// WithLines is an outcome's message with the machine's last words on it, a
// line each.
func WithLines(out TargetOutcome) string {
	if len(out.Lines) == 0 {
		return out.Message
	}
	return out.Message + "\nIts console says:\n  " + strings.Join(out.Lines, "\n  ")
}
