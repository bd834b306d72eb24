// SPDX-License-Identifier: Apache-2.0

// Package access gives users access to the machines of a lab: the manager's HTTP
// API for SSH connections, serial consoles, serial logs and the host's capacity, and its
// client. The API also lists the objects whose status is not that of the manager that
// serves it.
//
//	POST /v1/namespaces/{namespace}/{targets|servers}/{name}/ssh      Upgrade: tcp
//	POST /v1/namespaces/{namespace}/{targets|servers}/{name}/console  Upgrade: tcp
//	GET  /v1/namespaces/{namespace}/{targets|servers}/{name}/log?follow=true
//	GET  /v1/capacity
//	GET  /v1/unobserved
//
// After the server's "101 Switching Protocols" the upgraded connections are byte
// streams. An error is returned as a status and one human-readable line of text.
//
// The package is independent of Kubernetes and QEMU: a [Backend] resolves names. It
// does not authenticate clients: [SocketServer] listens on a UNIX socket that only
// its owner can open, and callers that serve [Handler] elsewhere must add
// authentication.
package access

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Kind is the kind of a machine as it appears in the URL.
type Kind string

// The kinds of machines.
const (
	Target Kind = "targets" // a BareMetalTarget
	Server Kind = "servers" // a ProvisioningServer
)

// Ref identifies one machine.
type Ref struct {
	Namespace string
	Kind      Kind
	Name      string
}

// String returns the machine's human-readable name.
func (r Ref) String() string {
	kind := "target"
	if r.Kind == Server {
		kind = "server"
	}
	return fmt.Sprintf("%s %s/%s", kind, r.Namespace, r.Name)
}

// Object identifies an object of the lab.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Backend resolves machines. Its methods must be safe for concurrent use. The text
// of every error is returned to the client, with the status of [ErrNotFound] or
// [ErrUnavailable] if the error wraps it; any other error is logged as a failure of
// the manager.
type Backend interface {
	// DialSSH opens a TCP connection to the machine's port 22. ctx bounds only the
	// dialling. The caller closes the connection.
	DialSSH(ctx context.Context, m Ref) (net.Conn, error)
	// SerialSocket returns the path of the machine's serial console, a UNIX socket
	// that serves one connection at a time.
	SerialSocket(ctx context.Context, m Ref) (string, error)
	// SerialLog returns the path of the file with all output of the console. It
	// need not exist yet.
	SerialLog(ctx context.Context, m Ref) (string, error)
	// Capacity returns what the host's machines use, and the queue of those that wait.
	Capacity(ctx context.Context) (Capacity, error)
	// Unobserved lists the objects that the manager has not observed since it started:
	// their status may still be that of an earlier manager.
	Unobserved(ctx context.Context) ([]Object, error)
}

var (
	// ErrNotFound means that the machine does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that the machine exists but cannot be reached now.
	ErrUnavailable = errors.New("unavailable")
)
