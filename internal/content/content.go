// SPDX-License-Identifier: Apache-2.0

// Package content gets machines what they boot from: it joins the artifact
// store with the conversions of images, the installer's archive, the host's own
// iPXE and the server's seed. It decides nothing about when or for whom.
package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootprogram"
	"github.com/pxelab/pxelab/internal/cloudinit"
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/image"
	"github.com/pxelab/pxelab/internal/netboot/unit"
	"github.com/pxelab/pxelab/internal/overlay"
	"github.com/pxelab/pxelab/internal/seed"
)

// overlayRecipe is raised when the archive is to be made anew from the same
// installer.
const overlayRecipe = "installer archive version 1"

// Blob is content in the store.
type Blob struct {
	Digest string // "sha256:<hex>" of the content
	Size   int64  // bytes
	// DiskBytes is the disk size that an image needs, Pin what its installer
	// is told to expect (see package imagestream); zero for other content.
	DiskBytes int64
	Pin       string
}

// ServerSeed is what a provisioning VM is told by its seed.
type ServerSeed struct {
	InstanceID        string
	Hostname          string
	Architecture      string // "x86_64" or "aarch64"
	Credentials       *agent.Credentials
	SSHUser           string
	SSHAuthorizedKeys []string
	// SSHHostKey is the VM's own key (Ed25519, OpenSSH's private form).
	SSHHostKey        []byte
	UplinkMAC, LabMAC string
	LabAddress        netip.Prefix
	MTU               int
}

// Options make a Library.
type Options struct {
	Store *artifact.Store
	Disks *disk.Tool
	// ImagesDir is the lab's image folder.
	ImagesDir string
	// ProgramsDir holds netbootd-linux-ARCH and installer-linux-ARCH.
	ProgramsDir string
}

// Library is where machines' content comes from. It is safe for concurrent
// use; calls for the same content share the work.
type Library struct {
	options Options
	images  *image.Images
}

// New makes a Library.
func New(o Options) *Library {
	return &Library{options: o, images: image.New(o.Store, o.Disks)}
}

// goArch is how Go names an architecture.
var goArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

// program is one of the project's own programs for a guest.
func (l *Library) program(name, architecture string) (string, error) {
	path := filepath.Join(l.options.ProgramsDir, name+"-linux-"+goArch[architecture])
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s for %s: %w; run «make build»", name, architecture, err)
	}
	return path, nil
}

// File fetches a file that is used as it is.
func (l *Library) File(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (Blob, error) {
	a, err := l.options.Store.Ensure(ctx, src, progress)
	return Blob{Digest: a.Digest, Size: a.Size}, err
}

// Stream fetches a disk image and converts it for the installer.
func (l *Library) Stream(ctx context.Context, src artifact.Source, progress func(artifact.Progress)) (Blob, error) {
	a, err := l.options.Store.Ensure(ctx, src, progress)
	if err != nil {
		return Blob{}, err
	}
	s, err := l.images.EnsureStream(ctx, a, src.Format, progress)
	if err != nil {
		return Blob{}, fmt.Errorf("image %s: %w", src, err)
	}
	return Blob{Digest: s.Digest, Size: s.Size, DiskBytes: s.VirtualSize, Pin: s.Pin}, nil
}

// Overlay is the archive with the installer for an architecture.
func (l *Library) Overlay(ctx context.Context, architecture string) (Blob, error) {
	path, err := l.program("installer", architecture)
	if err != nil {
		return Blob{}, err
	}
	installer, err := os.ReadFile(path)
	if err != nil {
		return Blob{}, fmt.Errorf("reading the installer: %w", err)
	}
	sum := sha256.Sum256(installer)
	from := artifact.Artifact{Digest: "sha256:" + hex.EncodeToString(sum[:]), Path: path, Size: int64(len(installer))}
	d, err := l.options.Store.Derive(ctx, from, overlayRecipe, nil, func(_ context.Context, b *artifact.Build) (map[string]string, error) {
		f, err := os.OpenFile(b.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(overlay.Write(f, installer), f.Close())
	})
	if err != nil {
		return Blob{}, fmt.Errorf("packing the installer: %w", err)
	}
	return Blob{Digest: d.Digest, Size: d.Size}, nil
}

// Program is the host's own iPXE for an architecture; fs.ErrNotExist when
// there is none.
func (l *Library) Program(architecture string) (bootprogram.Program, error) {
	return bootprogram.Find(l.options.ImagesDir, architecture)
}

// Path is where content of the store is, by its digest.
func (l *Library) Path(digest string) (string, bool) {
	a, ok := l.options.Store.Get(digest)
	return a.Path, ok
}

// ServerDisk fetches a server's image and makes the server's disk of size
// bytes over it at path. A disk that is there is left alone.
func (l *Library) ServerDisk(ctx context.Context, src artifact.Source, path string, size int64, progress func(artifact.Progress)) error {
	a, err := l.options.Store.Ensure(ctx, src, progress)
	if err != nil {
		return err
	}
	base, err := l.images.EnsureBase(ctx, a, src.Format, progress)
	if err != nil {
		return fmt.Errorf("image %s: %w", src, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the machine's directory: %w", err)
	}
	return l.options.Disks.CreateOverlay(ctx, disk.Overlay{Base: base.Path, BaseFormat: base.Format, Path: path, Size: size})
}

// ServerSeed writes the seed of a server to path.
func (l *Library) ServerSeed(path string, s ServerSeed) error {
	o := cloudinit.ServerOptions{
		InstanceID: s.InstanceID, Hostname: s.Hostname,
		SSHUser: s.SSHUser, SSHAuthorizedKeys: s.SSHAuthorizedKeys, SSHHostKey: s.SSHHostKey,
		UplinkMAC: s.UplinkMAC, LabMAC: s.LabMAC, LabAddress: s.LabAddress, LabMTU: s.MTU,
	}
	network, err := cloudinit.ServerNetworkConfig(o)
	if err != nil {
		return err
	}
	netbootd, err := l.program("netbootd", s.Architecture)
	if err != nil {
		return err
	}
	_, err = seed.Write(path, map[string]seed.Content{
		seed.UserData:           {Data: []byte(cloudinit.ServerUserData(o))},
		seed.MetaData:           {Data: []byte(cloudinit.ServerMetaData(o))},
		seed.NetworkConfig:      {Data: []byte(network)},
		cloudinit.SeedBinary:    {Path: netbootd},
		cloudinit.SeedUnit:      {Data: unit.File},
		cloudinit.SeedCA:        {Data: s.Credentials.CA},
		cloudinit.SeedServerCrt: {Data: s.Credentials.ServerCrt},
		cloudinit.SeedServerKey: {Data: s.Credentials.ServerKey},
	})
	return err
}
