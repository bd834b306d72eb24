// SPDX-License-Identifier: Apache-2.0

// Package controllers reconciles the three kinds. Each reconciler observes,
// asks internal/plan what ought to be, acts through the interfaces of Host, and
// writes what was observed into the object's status. What takes long runs in
// the background; a reconciler never blocks on a download or a shutdown.
package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootprogram"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/session"
)

// Host is everything the reconcilers act upon.
type Host struct {
	Machines qemu.Runner
	Networks Networks
	Sessions Sessions
	Content  Content
	// Dirs of machines.
	DataDir, RuntimeDir string
	// RetainedDir holds the disks of deleted targets with diskRetention Retain.
	RetainedDir string
	// JumboFrames says whether user-space networks carry large frames here.
	JumboFrames bool
	Now         func() time.Time
}

// paths are the files of a machine that is started now.
func (h *Host) paths(uid string) qemu.Paths { return qemu.NewPaths(h.DataDir, h.RuntimeDir, uid) }

// look observes a machine. The sockets of one that runs are where its QEMU made
// them: a manager with another runtime directory may have started it.
func (h *Host) look(ctx context.Context, uid string) (qemu.State, qemu.Paths, error) {
	state, err := h.Machines.Observe(ctx, uid)
	if err != nil {
		return state, qemu.Paths{}, fmt.Errorf("observing the machine: %w", err)
	}
	p := h.paths(uid)
	if state.Phase.Alive() {
		p.Sockets, p.QMP, p.Serial, p.VNC = state.Paths.Sockets, state.Paths.QMP, state.Paths.Serial, state.Paths.VNC
	}
	return state, p, nil
}

// Networks plugs machines into lab networks; labnet.Networks is one.
type Networks interface {
	Attach(a labnet.Attachment) (qemu.Backend, error)
	Detach(a labnet.Attachment) error
	Remove(network string) error
	// Impair makes a network worse on purpose; Offenders tells whose frames it
	// refused.
	Impair(network string, i labnet.Impairment)
	Offenders(network string) []labnet.Offender
}

// Sessions are the connections to netbootds; session.Hub is one.
type Sessions interface {
	Connect(server, address string, trust agent.Trust) error
	Push(server string, config *agent.Config, content map[string]string)
	Observe(server string) session.Observation
	Remove(server string)
}

// Content is where kernels, images and programs come from, verified;
// content.Library is one.
type Content interface {
	// File fetches a file that is used as it is.
	File(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error)
	// Stream fetches a disk image and converts it for the installer.
	Stream(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error)
	// Overlay is the archive with the installer for an architecture.
	Overlay(ctx context.Context, architecture string) (content.Blob, error)
	// Program is the host's own iPXE for an architecture.
	Program(architecture string) (bootprogram.Program, error)
	// Path is where content is, by its digest.
	Path(digest string) (string, bool)
	// ServerDisk fetches a server's image and makes the server's disk over it
	// at path, unless it is there.
	ServerDisk(ctx context.Context, src artifact.Source, path string, size int64, progress func(artifact.Progress)) error
	// ServerSeed writes the seed of a server to path.
	ServerSeed(path string, seed content.ServerSeed) error
}
