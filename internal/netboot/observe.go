// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
	"github.com/pxelab/pxelab/internal/install"
	"github.com/pxelab/pxelab/internal/tftp"
)

// The functions of this file apply one observation to one machine's state.
// They are pure and may see the same observation twice.

const (
	maxWarnings = 10
	maxText     = 2048
)

// forConfig carries a machine's state over to a new configuration: another
// attempt forgets it, another power-on forgets what SSH answered and how far an
// installation was that it cut off.
func forConfig(s agent.MachineState, m *agent.Machine) agent.MachineState {
	if s.Attempt != m.Attempt {
		s = agent.MachineState{Attempt: m.Attempt}
	}
	if s.SSH.PowerOn != m.PowerOn {
		// From one power-on to the next without a word in between, what came
		// before the first report may be of the next already: the firmware does
		// not wait for the manager's word.
		if s.SSH.PowerOn != "" && (m.PowerOn == "" || s.Install != nil) {
			s = startsOver(s)
		}
		s.SSH = agent.SSHState{PowerOn: m.PowerOn}
	}
	return s
}

// startsOver forgets how far a boot from the network came, unless its
// installation has ended, well or not: what becomes of it then is decided by
// whoever names attempts.
func startsOver(s agent.MachineState) agent.MachineState {
	if s.Install != nil && (!s.Install.DoneAt.IsZero() || s.Install.Error != "") {
		return s
	}
	return agent.MachineState{Attempt: s.Attempt, SSH: s.SSH, Warnings: s.Warnings}
}

// first keeps the time at which something was seen for the first time.
func first(at *time.Time, now time.Time) {
	if at.IsZero() {
		*at = now
	}
}

func warn(s *agent.MachineState, at time.Time, reason, format string, args ...any) {
	w := agent.Warning{At: at, Reason: reason, Message: clip(fmt.Sprintf(format, args...))}
	if n := len(s.Warnings); n > 0 && s.Warnings[n-1].Reason == reason && s.Warnings[n-1].Message == w.Message {
		s.Warnings = slices.Clone(s.Warnings) // watchers hold the old one
		s.Warnings[n-1].At = at
		return
	}
	s.Warnings = append(s.Warnings[:len(s.Warnings):len(s.Warnings)], w)
	if extra := len(s.Warnings) - maxWarnings; extra > 0 {
		s.Warnings = s.Warnings[extra:]
	}
}

func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// sawDHCP applies a DHCP event; d is what the policy says for the client.
func sawDHCP(s *agent.MachineState, e dhcp.Event, d Decision) {
	if e.Stage != dhcp.Firmware {
		return
	}
	switch e.Kind {
	case dhcp.Discover, dhcp.Offer:
		if !s.ProgramAt.IsZero() || !s.ScriptAt.IsZero() || s.Install != nil {
			*s = startsOver(*s) // firmware asks before it has anything
		}
		first(&s.DiscoverAt, e.At)
		if e.Kind == dhcp.Discover {
			warn(s, e.At, "DHCPRefused", "no address could be offered: %s", e.Reason)
		}
	case dhcp.Ack:
		first(&s.DiscoverAt, e.At)
		first(&s.RequestAt, e.At)
	case dhcp.Nak, dhcp.Decline:
		warn(s, e.At, "DHCP"+string(e.Kind), "%s", e.Reason)
	}
	if d.Action == ActionNone && d.Reason != ReasonSwitchedOff && (e.Kind == dhcp.Offer || e.Kind == dhcp.Ack) {
		warn(s, e.At, d.Reason, "no boot file: %s", d.Message)
	}
}

// sawTFTP applies an event of the transfer of the network boot program.
func sawTFTP(s *agent.MachineState, e tftp.Event, at time.Time) {
	switch e.Kind {
	case tftp.Done:
		first(&s.ProgramAt, at)
	case tftp.Abort:
		warn(s, at, "TFTPAborted", "%s after %d of %d bytes: %s", e.Name, e.Bytes, e.Size, e.Err)
	}
}

// Errors of a refused report.
var (
	errOldAttempt = errors.New("the report is of another attempt")
	errBadReport  = errors.New("malformed report")
)

var stageOrder = map[install.Stage]int{
	install.StageStart: 1, install.StageWrite: 2, install.StageVerify: 3,
	install.StagePartition: 4, install.StageConfigure: 5, install.StageDone: 6, install.StageFailed: 6,
}

// sawProgress applies the installer's report. Late ones of a finished attempt
// change nothing.
func sawProgress(s *agent.MachineState, p install.Progress, at time.Time) error {
	order := stageOrder[p.Stage]
	switch {
	case p.Attempt != s.Attempt:
		return fmt.Errorf("%w: %q, this is %q", errOldAttempt, clip(p.Attempt), s.Attempt)
	case order == 0:
		return fmt.Errorf("%w: unknown stage %q", errBadReport, clip(string(p.Stage)))
	case p.BytesWritten < 0 || p.BytesTotal < 0:
		return fmt.Errorf("%w: %d of %d bytes", errBadReport, p.BytesWritten, p.BytesTotal)
	}
	if s.Install != nil && !s.Install.DoneAt.IsZero() {
		return nil
	}
	next := agent.InstallState{StartedAt: at}
	if s.Install != nil {
		next.StartedAt = s.Install.StartedAt
	}
	next.UpdatedAt, next.Stage = at, string(p.Stage)
	next.BytesWritten, next.BytesTotal = p.BytesWritten, p.BytesTotal
	switch p.Stage {
	case install.StageDone:
		next.DoneAt = at
	case install.StageFailed:
		next.Error = clip(p.Message)
		if next.Error == "" {
			next.Error = "the installer failed and gave no reason"
		}
		warn(s, at, "InstallFailed", "%s", next.Error)
	}
	s.Install = &next
	return nil
}

// sawPhoneHome applies cloud-init's report.
func sawPhoneHome(s *agent.MachineState, m *agent.Machine, p agent.PhoneHome) error {
	if p.InstanceID != m.InstanceID {
		return fmt.Errorf("%w: instance-id %q, this is %q", errOldAttempt, clip(p.InstanceID), m.InstanceID)
	}
	if !installed(m, *s) && m.Boot != agent.BootDisk {
		return fmt.Errorf("%w: the machine is not installed in this attempt", errOldAttempt)
	}
	s.PhoneHome = &p
	return nil
}

// sawSSH applies the answer of a machine's SSH port that was asked while
// powerOn was the machine's; problem is empty when it identified itself. It
// reports whether anything changed that others want to know at once.
func sawSSH(s *agent.MachineState, powerOn string, at time.Time, problem string) bool {
	if s.SSH.PowerOn != powerOn {
		return false
	}
	up := problem == ""
	news := s.SSH.Up != up || s.SSH.Error != problem || s.SSH.CheckedAt.IsZero()
	if up && !s.SSH.Up {
		s.SSH.UpSince = at
	}
	if !up {
		s.SSH.UpSince = time.Time{}
	}
	s.SSH.Up, s.SSH.Error, s.SSH.CheckedAt = up, problem, at
	return news
}

// asksSSH reports whether a machine's SSH port is to be asked.
func asksSSH(m *agent.Machine, s agent.MachineState) bool {
	return m.PowerOn != "" && (s.PhoneHome != nil || m.Boot == agent.BootDisk)
}
