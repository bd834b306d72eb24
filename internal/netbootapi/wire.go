// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The headers, the upgrade name and the idle limit of the protocol.
const (
	// IdleLimit is how long the peer of an upload or a stream may neither accept
	// nor send data before the connection is closed.
	IdleLimit = 30 * time.Second

	HeaderOffset   = "Pxelab-Offset"
	HeaderComplete = "Pxelab-Complete"
	// HeaderEpoch has the epoch of the manager that requests a change, a decimal
	// number. netbootd refuses one that is lower than the highest it has seen.
	HeaderEpoch = "Pxelab-Epoch"
	UpgradeName = "pxelab-tcp"
)

// Errors of netbootd that the protocol carries to the client, where errors.Is
// matches them.
var (
	ErrOffset      = errors.New("the upload does not start at the end of the stored part")
	ErrDigest      = errors.New("the content does not match its digest")
	ErrNoSpace     = errors.New("no space left on the provisioning server")
	ErrNoTarget    = errors.New("the address does not belong to a declared machine")
	ErrUnreachable = errors.New("the machine does not respond")
	// ErrFenced ends the requests of a manager that another one has replaced.
	ErrFenced = errors.New("another manager has taken over this provisioning server")
	// ErrNoServer means that a ServerConfig must be put first.
	ErrNoServer = errors.New("netbootd has no server configuration yet")
	// ErrNoContent means that the entry keeps a content that netbootd does not have.
	ErrNoContent = errors.New("netbootd has no content of this machine to keep")
	// ErrConflict means that another machine has the same MAC address, address or
	// token. That machine may be about to lose it, so it may help to try again.
	ErrConflict = errors.New("the machine conflicts with another one")
	// ErrTooMany means that the server has as many machines as it can serve.
	ErrTooMany = errors.New("too many machines")
	// ErrVersion means that netbootd has an API that this package does not know. The
	// protocol does not carry it.
	ErrVersion = errors.New("netbootd is of another version than the manager")
	// ErrMissing is wrapped by a MissingError.
	ErrMissing = errors.New("content is missing")
)

// ErrorKind is one of these errors and its HTTP status.
type ErrorKind struct {
	Err    error
	Status int
}

// ErrorKinds maps the kind in an [ErrorReply] to these errors and ErrInvalid.
// It must not be modified.
var ErrorKinds = map[string]ErrorKind{
	"Invalid":     {ErrInvalid, http.StatusUnprocessableEntity},
	"Offset":      {ErrOffset, http.StatusConflict},
	"Digest":      {ErrDigest, http.StatusUnprocessableEntity},
	"NoSpace":     {ErrNoSpace, http.StatusInsufficientStorage},
	"NoTarget":    {ErrNoTarget, http.StatusForbidden},
	"Unreachable": {ErrUnreachable, http.StatusBadGateway},
	"Fenced":      {ErrFenced, http.StatusPreconditionFailed},
	"NoServer":    {ErrNoServer, http.StatusConflict},
	"NoContent":   {ErrNoContent, http.StatusConflict},
	"Conflict":    {ErrConflict, http.StatusConflict},
	"TooMany":     {ErrTooMany, http.StatusConflict},
	"Missing":     {ErrMissing, http.StatusConflict},
}

// ErrorReply is the body of a response that reports an error.
type ErrorReply struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
	// Missing is the content of a MissingError.
	Missing []Blob `json:"missing,omitempty"`
}

// MissingError is why netbootd does not accept a config or an entry yet: it must have
// the content first. It wraps ErrMissing.
type MissingError struct {
	Blobs []Blob
}

func (e *MissingError) Error() string {
	var digests []string
	for _, b := range e.Blobs {
		digests = append(digests, b.Digest)
	}
	return fmt.Sprintf("%v: %s", ErrMissing, strings.Join(digests, ", "))
}

func (e *MissingError) Unwrap() error { return ErrMissing }
