// SPDX-License-Identifier: Apache-2.0

// Package guest is what a simulated machine does while it is powered on.
package guest

import (
	"context"
)

// Guest is a machine for one power-on.
type Guest struct{}

// New returns a guest that Run runs.
func New(Config) *Guest { return &Guest{} }

// Receive delivers a frame to a NIC. It never blocks.
func (g *Guest) Receive(string, []byte) {}

// Run runs the guest from its power-on until it powers off or ctx ends.
func (g *Guest) Run(ctx context.Context) End {
	<-ctx.Done()
	return Stopped
}

// Reset presses the reset button.
func (g *Guest) Reset() {}

// PowerButton presses the power button.
func (g *Guest) PowerButton() {}
