// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/seriallog"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// TestResetLoop observes machines that reset themselves every 30 s: their network boot
// never gets further, although no step of it lasts long.
func TestResetLoop(t *testing.T) {
	ipxe := &seriallog.Finding{Kind: seriallog.IPXEError, Explanation: "iPXE failed"}
	writing := func(bytes int64) *netbootapi.MachineState {
		return withInstall(netbootapi.InstallState{Stage: "Write", BytesTotal: 1000, BytesWritten: bytes})
	}
	for name, c := range map[string]struct {
		// boot returns what is observed in a pass, of which there is one in 30 s.
		boot    func(pass int) []*netbootapi.MachineState
		finding *seriallog.Finding // at the end of every second pass
		// powerOn identifies the process of the machine in a pass.
		powerOn func(pass int) time.Time
		failed  bool
		reason  string
		message string
	}{
		"kernel": {
			boot:   func(int) []*netbootapi.MachineState { return bootTo(6) },
			failed: true, reason: v1alpha1.ReasonInstallerNotStarted, message: `at "starting installer"`,
		},
		"iPXE script": {
			boot: func(int) []*netbootapi.MachineState { return bootTo(4) }, finding: ipxe,
			failed: true, reason: v1alpha1.ReasonIPXEError, message: `at "kernel and initrd": iPXE failed`,
		},
		"boot program": {
			boot:   func(int) []*netbootapi.MachineState { return bootTo(2) },
			failed: true, reason: v1alpha1.ReasonBootProgramNotFetched, message: `at "TFTP"`,
		},
		"further each time": {
			boot:   func(pass int) []*netbootapi.MachineState { return bootTo(min(1+pass/8, 6)) },
			reason: v1alpha1.ReasonNetworkBoot,
		},
		"installs in each": {
			boot: func(pass int) []*netbootapi.MachineState {
				return append(bootTo(6), writing(int64(pass)))
			},
			reason: v1alpha1.ReasonNetworkBoot,
		},
		"power-on in each": {
			boot:    func(int) []*netbootapi.MachineState { return bootTo(6) },
			powerOn: func(pass int) time.Time { return epoch.Add(time.Duration(pass) * time.Minute) },
			reason:  v1alpha1.ReasonNetworkBoot,
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := &v1alpha1.BareMetalTarget{}
			target.Spec.InstallGeneration = 1
			target.Spec.Power = v1alpha1.PowerOn
			target.Spec.InstallTimeout.Duration = 5 * time.Minute
			o := TargetObservation{
				Record: targetdisk.Record{Attempt: first(1)}, Machine: running, AgentConnected: true, Now: epoch,
			}
			var reached Reached
			var out TargetOutcome
			observe := func(pass int, s *netbootapi.MachineState, f *seriallog.Finding) {
				o.Now = o.Now.Add(time.Second)
				o.Seen, o.Diagnosis = s, f
				o.PowerOn = PowerOnID(epoch)
				if c.powerOn != nil {
					o.PowerOn = PowerOnID(c.powerOn(pass))
				}
				reached = reached.Observe(CurrentStep(target, o), o.PowerOn, f, o.Now)
				o.StepSince, o.Furthest, o.Earlier = reached.Since, reached.Step, reached.Finding
				out = TargetStatus(target, o)
			}
			for pass := 0; pass < 20 && !out.Ended; pass++ {
				began := o.Now
				states := c.boot(pass)
				for i, s := range states {
					var f *seriallog.Finding
					if i == len(states)-1 && pass%2 == 1 {
						f = c.finding
					}
					observe(pass, s, f)
				}
				if out.Ended {
					break
				}
				o.Now = began.Add(30 * time.Second)
				observe(pass, nil, nil)
			}
			if got := AttemptFailed(target, o, out); got != c.failed {
				t.Errorf("got a failed attempt %t, want %t: %+v", got, c.failed, out)
			}
			if out.Reason != c.reason {
				t.Errorf("got reason %s, want %s: %s", out.Reason, c.reason, out.Message)
			}
			checkMessage(t, "outcome", out.Message, c.message)
			if waited := o.Now.Sub(epoch); c.failed && waited > 7*time.Minute {
				t.Errorf("the attempt failed after %s, want about 5 minutes", waited)
			}
		})
	}
}

// bootTo returns what netbootd observes of a network boot up to a step, as in seen.
func bootTo(step int) (out []*netbootapi.MachineState) {
	for i := range step + 1 {
		out = append(out, seen(i))
	}
	return out
}
