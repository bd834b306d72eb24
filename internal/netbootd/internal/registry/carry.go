// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"time"
	"unicode/utf8"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Carry carries a machine's state over to a new entry. Another attempt clears it;
// another power-on clears the SSH state and the progress of an installation that it
// interrupted. It is pure.
func Carry(s netbootapi.MachineState, m *netbootapi.Machine) netbootapi.MachineState {
	if s.Attempt != m.Attempt {
		s = netbootapi.MachineState{Attempt: m.Attempt}
	}
	if s.SSH.PowerOn != m.PowerOn {
		// When one power-on directly follows another, what was observed may already
		// belong to the new one: the machine does not wait for the manager to push it.
		if s.SSH.PowerOn != "" && (m.PowerOn == "" || s.Install != nil && !beganAfter(s.Install, m.PowerOn)) {
			s = StartOver(s)
		}
		s.SSH = netbootapi.SSHState{PowerOn: m.PowerOn}
	}
	return s
}

// clockSkew is by how much the clocks of the manager, which names a power-on, and of the
// provisioning VM, which observes, may differ. If they differ by more, or an installation
// began just before the power-on, the firmware's next DISCOVER starts over.
const clockSkew = 5 * time.Second

// beganAfter reports whether an installation began after a power-on, whose ID is its time.
func beganAfter(i *netbootapi.InstallState, powerOn string) bool {
	at, err := time.Parse(time.RFC3339Nano, powerOn)
	return err == nil && i.StartedAt.After(at.Add(-clockSkew))
}

// StartOver clears the progress of a network boot, unless its installation has
// succeeded or failed: then the manager decides whether to begin another attempt. It
// is pure.
func StartOver(s netbootapi.MachineState) netbootapi.MachineState {
	if s.Install != nil && (!s.Install.DoneAt.IsZero() || s.Install.Error != "") {
		return s
	}
	return netbootapi.MachineState{
		Content: s.Content, Control: s.Control, Problem: s.Problem, MissingBlobs: s.MissingBlobs,
		Attempt: s.Attempt, SSH: s.SSH, Warnings: s.Warnings,
	}
}

// maxProblem bounds the text of a Problem, in bytes of its JSON encoding.
const maxProblem = 1024

// Clip returns s, cut to limit bytes of its JSON encoding. The encoding counts because a
// guest may choose characters that JSON escapes.
func Clip(s string, limit int) string {
	size := 0
	for i, r := range s {
		if size += encodedSize(r); size > limit {
			return s[:i] + "…"
		}
	}
	return s
}

// encodedSize returns an upper bound of the size of r in a JSON string, as
// encoding/json writes it.
func encodedSize(r rune) int {
	switch {
	case r < ' ', r == utf8.RuneError, r == '<', r == '>', r == '&', r == '\u2028', r == '\u2029':
		return len(`\u0000`)
	case r == '"', r == '\\':
		return 2
	}
	return utf8.RuneLen(r)
}
