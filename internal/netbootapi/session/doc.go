// SPDX-License-Identifier: Apache-2.0

// Package session keeps the manager connected to the netbootd of each server. It puts
// the server's config and the entries of its machines, uploads the content that they
// name, deletes machines that no longer exist, renews the credentials and holds the last
// observed state.
//
// It compares the digests that netbootd reports with those of what is desired and acts
// on each machine alone: a machine whose entry is refused, whose content is missing or
// whose request fails delays no other, and the update of one machine costs the others
// nothing. It decides nothing: its caller supplies the desired entries and evaluates the
// state.
package session
