// SPDX-License-Identifier: Apache-2.0

// Package control is what the Runner of simulated machines and the simulator program
// exchange: the protocol on the simulator's UNIX socket, the records of machines and
// of the program, and the names of their files.
//
// The protocol is lines of JSON. The program sends a [Message] with its [Hello], then
// the [Record] of each machine that it runs, then a Message with Synced, and from then
// on each change, each reply, and a heartbeat at least every [HeartbeatInterval]. The
// Runner sends a [Request] per line. A record belongs to the program while the process
// in it lives and reports the machine, and to the Runner from then on; no other writes
// it.
package control
