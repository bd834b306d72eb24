// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
)

// isReported reports whether the n-th of many equal events is logged: those whose number
// is a power of two are, so that a guest cannot flood the log.
func isReported(n int) bool { return n&(n-1) == 0 }

// panicked records a panic of the guest. Further ones change nothing until a reset.
func (m *instance) panicked(log logr.Logger, action string) {
	n, again := 0, false
	m.update(func() {
		m.panics++
		n, again = m.panics, m.panicSeen
		m.panicSeen, m.record.GuestPanicked = true, true
	})
	if isReported(n) {
		log.Info("The guest panicked", "panics", n)
	}
	if again {
		return
	}
	m.saveSoon()
	m.local.publish(m.id, machine.EventGuestPanicked, action)
	m.poke()
}

// diskFailed reports a disk that could not be read or written. An error that stops the
// guest also changes the run state, whose change is published in any case.
func (m *instance) diskFailed(log logr.Logger, device, node, reason string) {
	n := 0
	m.update(func() {
		m.diskErrors++
		n = m.diskErrors
	})
	if isReported(n) {
		log.Info("A disk of the machine failed", "device", device, "node", node, "reason", reason, "errors", n)
		m.local.publish(m.id, machine.EventChanged, "disk error: "+reason)
	}
}
