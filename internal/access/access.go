// SPDX-License-Identifier: Apache-2.0

// Package access gives users access to the machines of a lab. It has two APIs, both
// served by the manager:
//
// The access API (group access.pxelab.io) is for users. It is an aggregated API: the
// cluster's API server authenticates users and forwards their requests.
//
//	GET /apis/access.pxelab.io/v1alpha1/namespaces/{namespace}/{resource}/{name}/ssh      WebSocket
//	GET /apis/access.pxelab.io/v1alpha1/namespaces/{namespace}/{resource}/{name}/console  WebSocket
//	GET /apis/access.pxelab.io/v1alpha1/namespaces/{namespace}/{resource}/{name}/log?follow=true
//	GET /apis/access.pxelab.io/v1alpha1/capacities/manager
//
// The resource is baremetaltargets or provisioningservers. [Handler] accepts requests of
// the API server only, and asks an [Authorizer] whether the user may do what is requested.
// [TLSServer] serves it; [Client] is its client.
//
// The host API is for commands on the host, such as "lab status", which work while the
// cluster is not reachable. [SocketServer] serves it on a UNIX socket that only its owner
// can open; [SocketClient] is its client.
//
//	GET /v1/capacity
//	GET /v1/unobserved
//
// The package is independent of controllers and QEMU: a [Backend] resolves names.
package access

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// The access API's group and version.
const (
	Group   = "access.pxelab.io"
	Version = "v1alpha1"
)

// Kind is the kind of a machine, as the name of its resource.
type Kind string

// The kinds of machines.
const (
	Target Kind = "baremetaltargets"
	Server Kind = "provisioningservers"
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
}

// HostBackend answers the host API. The errors of its methods are those of [Backend].
type HostBackend interface {
	// Capacity is that of [Backend].
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
