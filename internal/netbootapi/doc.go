// SPDX-License-Identifier: Apache-2.0

// Package netbootapi is the netboot API: what the manager and netbootd, the
// program inside the provisioning VM, exchange. It holds the values, their
// validation, the credentials and the client, which uses mutual TLS.
//
// The manager puts one ServerConfig and one Entry for each machine. Files and texts are
// uploaded once, by digest, and referred to; an entry is accepted when netbootd has what
// its boot needs, and refused alone otherwise. netbootd answers with a stream of
// Updates, the observed state, which continues after a reconnection at its Position, and
// with a stream of Events. All of it is level-triggered: either side may be restarted,
// compares the digests of the entries that the other has, and catches up. A digest is
// always taken over the bytes that were sent.
//
// No document has the machines together, so that neither the size nor an error of one
// delays or prevents the service of another. A manager that another one has replaced is
// refused by its epoch. The package holds no policy: internal/bootconfig/policy decides
// what a machine boots, internal/plan determines its phase.
package netbootapi
