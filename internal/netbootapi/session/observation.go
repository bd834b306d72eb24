// SPDX-License-Identifier: Apache-2.0

package session

import "github.com/pxelab/pxelab/internal/netbootapi"

// Desired is what netbootd should have of one machine.
type Desired struct {
	// Content is nil to keep the content that netbootd has.
	Content *netbootapi.Content
	Control netbootapi.Control
	// Files has the path, by digest, of each file that the content names and that is
	// available; Texts has the texts by digest. Both may have others, such as those of a
	// content that netbootd keeps.
	Files map[string]string
	Texts map[string]string
}

// Observation is the observed state of one server's netbootd and its session.
type Observation struct {
	// Connected reports whether State is current.
	Connected bool
	// State is the last received state; it is kept when the connection is lost and
	// must not be modified.
	State netbootapi.State
	// Error is why the last attempt to connect failed; nil while connected.
	Error error
	// Wanted is the digest of the config last given to PutServer; empty before.
	Wanted string
	// PutError is why netbootd did not accept the config; nil when it did.
	PutError error
	// Upload is the upload of a file of more than 1 MiB that is in progress, or else
	// the last one that failed; nil when there is none.
	Upload *Upload
	// Pending is the number of files and texts that are still to be sent, for the
	// server and its machines.
	Pending int
	// Untrusted reports that netbootd answers but one side does not accept the
	// other's certificate.
	Untrusted bool
	// RenewError is why netbootd did not accept its new credentials; nil when it
	// did, or there are none.
	RenewError error
}

// Machine is what is known of one machine at its server.
type Machine struct {
	// Connected reports whether State is current.
	Connected bool
	// State is the last received state; nil if netbootd has none. It is shared and
	// must not be modified.
	State *netbootapi.MachineState
	// InForce reports that netbootd serves what was last given to PutMachine: its
	// control part, and its content or, while State.Installing, the content that
	// netbootd keeps.
	InForce bool
	// Profile is the ProfileDigest of the content that was last given to PutMachine, if
	// netbootd has that content: it serves it, or has all that it names while it keeps
	// another one. It is empty otherwise, and if the last Desired had no content.
	Profile string
	// Error is why netbootd does not accept the entry, or which content that it
	// needs is not available. Content that is being sent is not an error.
	Error error
	// Pending is the number of the machine's files and texts that are still to be
	// sent.
	Pending int
	// Upload is the upload of one of them; nil for none.
	Upload *Upload
}

// Upload is the progress of one upload to the server.
type Upload struct {
	Blob netbootapi.Blob
	Done int64
	// Error is why the last attempt failed; it is tried again.
	Error error
}
