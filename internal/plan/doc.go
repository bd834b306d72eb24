// SPDX-License-Identifier: Apache-2.0

// Package plan computes what the reconcilers do. From the spec of an object and
// what was observed of it, it derives the description of its machine, its boot
// order, its addresses, the configuration of netbootd, and its phase and
// conditions.
//
// Every function is pure: it does no I/O and reads no clock. The reconcilers in
// controllers observe, call this package and carry out the result.
package plan
