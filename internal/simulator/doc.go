// SPDX-License-Identifier: Apache-2.0

// Package simulator is the [machine.Runner] of simulated machines, whose network
// traffic is real and whose guests are not. They run in one process for each data
// directory, the program cmd/simulator, which outlives the Runner and is found again by
// the next one. Package server is what that process does.
package simulator
