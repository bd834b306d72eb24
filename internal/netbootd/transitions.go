// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
	"github.com/pxelab/pxelab/internal/netbootd/internal/tftp"
)

// The functions of this file apply one observation to one machine's state.
// They are pure and accept the same observation twice.

const (
	maxWarnings = 10
	// maxText bounds a text in a state, in bytes of its JSON encoding.
	maxText = 1024
)

// first sets at to now unless it is already set.
func first(at *time.Time, now time.Time) {
	if at.IsZero() {
		*at = now
	}
}

func warn(s *netbootapi.MachineState, at time.Time, reason, format string, args ...any) {
	w := netbootapi.Warning{At: at, Reason: reason, Message: clip(fmt.Sprintf(format, args...))}
	if n := len(s.Warnings); n > 0 && s.Warnings[n-1].Reason == reason && s.Warnings[n-1].Message == w.Message {
		s.Warnings = slices.Clone(s.Warnings) // watchers hold the old slice
		s.Warnings[n-1].At = at
		return
	}
	s.Warnings = append(s.Warnings[:len(s.Warnings):len(s.Warnings)], w)
	if extra := len(s.Warnings) - maxWarnings; extra > 0 {
		s.Warnings = s.Warnings[extra:]
	}
}

// clip returns s, cut to maxText: a machine's state has a limit.
func clip(s string) string { return registry.Clip(s, maxText) }

// sawDHCP applies a DHCP event; d is the decision for the client.
func sawDHCP(s *netbootapi.MachineState, e dhcp.Event, d policy.Decision) {
	if e.Stage != dhcp.Firmware {
		return
	}
	switch e.Kind {
	case dhcp.Discover, dhcp.Offer:
		if !s.ProgramAt.IsZero() || !s.ScriptAt.IsZero() || s.Install != nil {
			*s = registry.StartOver(*s) // a DISCOVER from firmware begins another boot
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
	if d.Action == policy.ActionNone && d.Reason != policy.ReasonSwitchedOff && (e.Kind == dhcp.Offer || e.Kind == dhcp.Ack) {
		warn(s, e.At, d.Reason, "no boot file: %s", d.Message)
	}
}

// sawTFTP applies an event from a transfer of the network boot program.
func sawTFTP(s *netbootapi.MachineState, e tftp.Event, at time.Time) {
	switch e.Kind {
	case tftp.Done:
		first(&s.ProgramAt, at)
	case tftp.Abort:
		warn(s, at, "TFTPAborted", "%s after %d of %d bytes: %s", e.Name, e.Bytes, e.Size, e.Err)
	}
}

// Reasons for refusing a report or a plan.
var (
	errOldAttempt = errors.New("the report is for another attempt")
	errBadReport  = errors.New("malformed report")
	errOutOfOrder = errors.New("the report is out of order")
	errChanged    = errors.New("the content of the machine has just changed; fetch the plan again")
)

var stageOrder = map[installerapi.Stage]int{
	installerapi.StageStart: 1, installerapi.StageClean: 2, installerapi.StageWrite: 3, installerapi.StageVerify: 4,
	installerapi.StagePartition: 5, installerapi.StageConfigure: 6, installerapi.StageDone: 7, installerapi.StageFailed: 7,
}

// sawProgress applies an installer report. Reports that arrive after the
// installation is done change nothing.
func sawProgress(s *netbootapi.MachineState, p installerapi.Progress, at time.Time) error {
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
	if p.Stage == installerapi.StageDone {
		if err := mayBeDone(s, p); err != nil {
			return err
		}
	}
	next := netbootapi.InstallState{StartedAt: at}
	if s.Install != nil {
		next.StartedAt = s.Install.StartedAt
	}
	next.UpdatedAt, next.Stage = at, string(p.Stage)
	next.BytesWritten, next.BytesTotal = p.BytesWritten, p.BytesTotal
	next.Waiting = clip(p.Waiting)
	if s.Hardware == nil {
		s.Hardware = boundHardware(p.Hardware)
	}
	switch p.Stage {
	case installerapi.StageDone:
		next.DoneAt = at
		next.Warnings = boundWarnings(p.Warnings)
	case installerapi.StageFailed:
		next.Error = clip(p.Message)
		if next.Error == "" {
			next.Error = "the installer failed without an error message"
		}
		warn(s, at, "InstallFailed", "%s", next.Error)
	}
	s.Install = &next
	return nil
}

// mayBeDone returns an error unless a machine has been sent its plan and its whole image,
// and reports all of it as written: a blank disk must never count as installed.
func mayBeDone(s *netbootapi.MachineState, p installerapi.Progress) error {
	switch {
	case s.ProfileDigest == "":
		return fmt.Errorf("%w: done without a plan", errOutOfOrder)
	case s.ImageAt.IsZero():
		return fmt.Errorf("%w: done before the image was sent", errOutOfOrder)
	case p.BytesTotal == 0 || p.BytesWritten != p.BytesTotal:
		return fmt.Errorf("%w: done with %d of %d bytes written", errOutOfOrder, p.BytesWritten, p.BytesTotal)
	}
	return nil
}

// sawPhoneHome applies the report of cloud-init's phone_home module. Only the first of an
// attempt has an effect.
func sawPhoneHome(s *netbootapi.MachineState, m *netbootapi.Machine, p netbootapi.PhoneHome) error {
	if p.InstanceID != m.InstanceID {
		return fmt.Errorf("%w: got instance-id %q, want %q", errOldAttempt, clip(p.InstanceID), m.InstanceID)
	}
	if !policy.IsInstalled(m, *s) && m.Boot != netbootapi.BootDisk {
		return fmt.Errorf("%w: the machine is not installed in this attempt", errOutOfOrder)
	}
	if !policy.MaySeed(m, *s) {
		return nil
	}
	s.PhoneHome = &p
	return nil
}

// sawSSH applies the result of a probe of a machine's SSH port made during
// powerOn; problem is empty when the port sent an SSH identification string. It
// reports whether the change must be published at once.
func sawSSH(s *netbootapi.MachineState, powerOn string, at time.Time, problem string) bool {
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

// asksSSH reports whether a machine's SSH port is probed.
func asksSSH(m *netbootapi.Machine, s netbootapi.MachineState) bool {
	return m.PowerOn != "" && (s.PhoneHome != nil || m.Boot == netbootapi.BootDisk)
}
