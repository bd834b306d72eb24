// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/nbp"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
)

// Host is what the reconcilers act upon.
type Host struct {
	Machines machine.Runner
	Networks Networks
	Sessions Sessions
	Content  Content
	// Artifacts is the store that Content uses.
	Artifacts Artifacts
	// DataDir and RuntimeDir are the parents of the machines' directories.
	DataDir, RuntimeDir string
	// RetainedDir holds the disks of deleted targets with diskRetention Retain.
	RetainedDir string
	// JumboFrames reports whether user-space networks on this host carry frames
	// with an MTU above 1500.
	JumboFrames bool
	// Bridges are the names of the bridges to which machines may be attached.
	Bridges []string
	// Cluster identifies the cluster that has the objects; see ownership.Cluster.ID.
	Cluster string
	// Namespaces are those whose objects the manager works on; none means all.
	Namespaces   []string
	Housekeeping Housekeeping
	// Capacity admits machines; nil is one without limits. Each manager has its own.
	Capacity *Capacity
	Now      func() time.Time
	// CheckTemplates renders what a machine would be served and returns what is wrong
	// with it; nil is bootconfig.Check. It may take long and must end with its context.
	CheckTemplates func(context.Context, bootconfig.Input) error
	// Metrics counts what the reconcilers do; nil counts nothing.
	Metrics *metrics.Recorder
	// DigestKey is the secret key of the digests of profiles. Where it is lost, the
	// disks are as well.
	DigestKey []byte
}

// paths returns the files of a machine that is started now.
func (h *Host) paths(uid string) machine.Paths { return machine.NewPaths(h.DataDir, h.RuntimeDir, uid) }

// observe returns the state and the files of a machine. A running machine's sockets are
// where its QEMU created them: a manager with another runtime directory may have started
// it.
func (h *Host) observe(ctx context.Context, uid string) (machine.State, machine.Paths, error) {
	h.Metrics.MachineObserved()
	state, err := h.Machines.Observe(ctx, uid)
	if err != nil {
		return state, machine.Paths{}, fmt.Errorf("observing the machine: %w", err)
	}
	p := h.paths(uid)
	if state.Phase.Alive() {
		p.Sockets, p.QMP, p.Serial, p.VNC = state.Paths.Sockets, state.Paths.QMP, state.Paths.Serial, state.Paths.VNC
	}
	return state, p, nil
}

// Networks connects machines to lab networks; labnet.Networks implements it.
type Networks interface {
	Attach(a labnet.Attachment) (machine.Backend, error)
	Detach(a labnet.Attachment) error
	Remove(network string) error
	// Impair injects loss and delay into a network; Offenders lists the machines
	// whose frames it refused.
	Impair(network string, i labnet.Impairment)
	Offenders(network string) []labnet.Offender
}

// Sessions are the connections to the servers' netbootd; session.Hub implements it.
type Sessions interface {
	Connect(server, address string, trust netbootapi.Trust) error
	PutServer(server string, config netbootapi.ServerConfig, files map[string]string)
	PutMachine(server, uid string, d session.Desired)
	DeleteMachine(server, uid string)
	Forget(uid string)
	Retain(server string, uids []string)
	Observe(server string) session.Observation
	ObserveMachine(server, uid string) session.Machine
	// Content returns the digests of the files that servers may still need.
	Content() []string
	Remove(server string)
}

// Content supplies verified kernels, images and programs; content.Library implements
// it.
type Content interface {
	// File fetches a file that needs no conversion.
	File(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error)
	// Stream fetches a disk image and converts it for the installer.
	Stream(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (content.Blob, error)
	// Overlay returns the initramfs archive with the installer for an architecture.
	Overlay(ctx context.Context, architecture string) (content.Blob, error)
	// Program returns the host's iPXE for an architecture.
	Program(architecture string) (nbp.Program, error)
	// Path returns the file that holds content with a digest.
	Path(digest string) (string, bool)
	// ServerDisk fetches a server's image and creates the server's disk at path, an
	// overlay of the image, unless it exists.
	ServerDisk(ctx context.Context, src artifact.Source, path string, size int64, progress func(artifact.Progress)) error
	// ServerSeed writes the seed of a server to path.
	ServerSeed(path string, seed content.ServerSeed) error
}

// Artifacts lists and removes stored content; content.Library implements it.
type Artifacts interface {
	// Inventory lists the content of the store.
	Inventory() ([]artifact.Stored, error)
	// Recorded returns the digest of the content that a source was resolved to.
	Recorded(src artifact.Source) (digest string, ok bool)
	// Remove removes content that Inventory listed and that was not used since.
	Remove(ctx context.Context, unused []artifact.Stored) (artifact.Removed, error)
	// FreeSpace returns how many bytes can be written to the store's file system.
	FreeSpace() (int64, error)
}
