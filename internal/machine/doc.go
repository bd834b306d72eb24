// SPDX-License-Identifier: Apache-2.0

// Package machine describes virtual and simulated machines: the description
// ([Machine]), the observed state ([State]) and the interface that runs them
// ([Runner]).
//
// A Machine is a value without effects. The package starts no process and makes
// no disk, no network and no decision about when a machine should run.
package machine
