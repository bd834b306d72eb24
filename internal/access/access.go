// SPDX-License-Identifier: Apache-2.0

// Package access is the way of people to the machines of a lab: the manager's
// HTTP API for SSH connections, serial consoles and serial logs, and its client.
//
//	POST /v1/namespaces/{namespace}/{targets|servers}/{name}/ssh      Upgrade: tcp
//	POST /v1/namespaces/{namespace}/{targets|servers}/{name}/console  Upgrade: tcp
//	GET  /v1/namespaces/{namespace}/{targets|servers}/{name}/log?follow=true
//
// The two upgrades turn the connection into a byte stream after the server's
// "101 Switching Protocols". Errors are answered with a status and one line of
// text for people.
//
// The package knows no Kubernetes and no QEMU: a [Backend] resolves names. It
// authenticates nobody: [Server] listens on a UNIX socket that only its owner
// can open, and whoever serves [Handler] elsewhere puts authentication in front.
package access

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Kind of a machine, as the URL names it.
type Kind string

// The kinds of machines.
const (
	Target Kind = "targets" // a BareMetalTarget
	Server Kind = "servers" // a ProvisioningServer
)

// Ref names one machine.
type Ref struct {
	Namespace string
	Kind      Kind
	Name      string
}

// String is the machine's name for people.
func (r Ref) String() string {
	kind := "target"
	if r.Kind == Server {
		kind = "server"
	}
	return fmt.Sprintf("%s %s/%s", kind, r.Namespace, r.Name)
}

// Backend resolves machines. All methods are safe for concurrent use. An error
// that wraps [ErrNotFound] or [ErrUnavailable] reaches the user with its text;
// any other counts as the manager's own failure.
type Backend interface {
	// DialSSH opens a TCP connection to the machine's port 22. ctx bounds the
	// dialling only. The caller closes the connection.
	DialSSH(ctx context.Context, m Ref) (net.Conn, error)
	// SerialSocket is the path of the machine's serial console, a UNIX socket
	// that serves one connection at a time.
	SerialSocket(ctx context.Context, m Ref) (string, error)
	// SerialLog is the path of the file with all that the console said. It
	// need not exist yet.
	SerialLog(ctx context.Context, m Ref) (string, error)
}

var (
	// ErrNotFound: there is no such machine.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable: the machine exists and cannot be reached now.
	ErrUnavailable = errors.New("unavailable")
)
