// SPDX-License-Identifier: Apache-2.0

// Package content provides the content that machines boot from. It combines the
// artifact store with image conversion, the installer archive, the host's iPXE
// and the server's seed image. Which machine gets which content is decided
// elsewhere.
package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/bootconfig/cloudinit"
	"github.com/pxelab/pxelab/internal/content/internal/cidata"
	"github.com/pxelab/pxelab/internal/content/internal/convert"
	"github.com/pxelab/pxelab/internal/installer/initramfs"
	"github.com/pxelab/pxelab/internal/nbp"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/qemuimg"
)

// overlayRecipe contains a version, which must be increased to pack existing
// installers again.
const overlayRecipe = "installer archive version 1"

// Blob is content in the store.
type Blob struct {
	Digest string // "sha256:<hex>" of the content
	Size   int64  // bytes
	// DiskBytes is the minimum disk size of an image; 0 for other content.
	DiskBytes int64
	// Pin is the digest that the installer verifies (see package imagestream);
	// empty for content other than images.
	Pin string
}

// ServerSeed is the configuration of a provisioning VM in its seed image.
type ServerSeed struct {
	InstanceID        string
	Hostname          string
	Architecture      string // "x86_64" or "aarch64"
	Credentials       *netbootapi.Credentials
	SSHUser           string
	SSHAuthorizedKeys []string
	// SSHHostKey is the VM's host key (Ed25519, OpenSSH private key format).
	SSHHostKey        []byte
	UplinkMAC, LabMAC string
	LabAddress        netip.Prefix
	MTU               int
}

// Options configures a Library.
type Options struct {
	Store *artifact.Store
	Disks *qemuimg.Tool
	// ImagesDir is the lab's images folder.
	ImagesDir string
	// ProgramsDir contains netbootd-linux-ARCH and installer-linux-ARCH.
	ProgramsDir string
}

// WithTurn returns a context in which Stream and ServerDisk call turn before each
// conversion of an image, and the function that it returns afterwards. turn blocks until the
// conversion may be built or its context ends. Calls that share a conversion wait for the
// turn of the first.
func WithTurn(ctx context.Context, turn func(context.Context) (release func(), err error)) context.Context {
	return convert.WithTurn(ctx, turn)
}

// Library provides content for machines. It is safe for concurrent use;
// concurrent calls for the same content share the work.
type Library struct {
	options Options
	images  *convert.Images
}

// New returns a Library.
func New(o Options) *Library {
	return &Library{options: o, images: convert.New(o.Store, o.Disks)}
}

// goArch maps architectures to GOARCH values.
var goArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

// program returns the path of a pxelab program for a guest.
func (l *Library) program(name, architecture string) (string, error) {
	path := filepath.Join(l.options.ProgramsDir, name+"-linux-"+goArch[architecture])
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("finding %s for %s: %w; run \"make build\"", name, architecture, err)
	}
	return path, nil
}

// File fetches a file that is used without conversion.
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

// Overlay returns the archive that contains the installer for an architecture.
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
		return nil, errors.Join(initramfs.Write(f, installer), f.Close())
	})
	if err != nil {
		return Blob{}, fmt.Errorf("packing the installer: %w", err)
	}
	return Blob{Digest: d.Digest, Size: d.Size}, nil
}

// Program returns the host's iPXE for an architecture. The error wraps
// fs.ErrNotExist if none is installed.
func (l *Library) Program(architecture string) (nbp.Program, error) {
	return nbp.Find(l.options.ImagesDir, architecture)
}

// Inventory lists the content of the store. Content that was converted or packed in a
// way that this program no longer uses has no origin.
func (l *Library) Inventory() ([]artifact.Stored, error) {
	return l.options.Store.Inventory(func(recipe string) bool { return recipe == overlayRecipe || convert.IsCurrent(recipe) })
}

// Recorded returns the digest of the content that a source was resolved to.
func (l *Library) Recorded(src artifact.Source) (digest string, ok bool) {
	return l.options.Store.Recorded(src)
}

// Remove removes content that Inventory listed, unless it is in use or was used since.
func (l *Library) Remove(ctx context.Context, unused []artifact.Stored) (artifact.Removed, error) {
	return l.options.Store.Remove(ctx, unused)
}

// FreeSpace returns how many bytes can be written to the store's file system.
func (l *Library) FreeSpace() (int64, error) { return l.options.Store.FreeSpace() }

// Path returns the path of content in the store by its digest.
func (l *Library) Path(digest string) (string, bool) {
	a, ok := l.options.Store.Get(digest)
	return a.Path, ok
}

// ServerDisk fetches a server's image and creates the server's disk at path, an
// overlay of size bytes. It is idempotent: an existing disk remains unchanged, unless its
// image is not in the store and can no longer be fetched.
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
		return fmt.Errorf("creating the machine's directory: %w", err)
	}
	if err := removeBaseless(path); err != nil {
		return err
	}
	return l.options.Disks.CreateOverlay(ctx, qemuimg.Overlay{Base: base.Path, BaseFormat: base.Format, Path: path, Size: size})
}

// removeBaseless removes a server's disk whose base does not exist although the image was
// fetched: the source resolves to other content now, or the store was moved. QEMU cannot
// open such a disk, and the manager sends netbootd again what was on it.
func removeBaseless(path string) error {
	base, err := qemuimg.BackingFile(path)
	if err != nil || base == "" {
		return nil // it does not exist, or CreateOverlay reports what is wrong with it
	}
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a disk whose image was deleted: %w", err)
	}
	return nil
}

// ServerSeed writes the seed image of a server to path.
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
	_, err = cidata.Write(path, map[string]cidata.Content{
		cidata.UserData:         {Data: []byte(cloudinit.ServerUserData(o))},
		cidata.MetaData:         {Data: []byte(cloudinit.ServerMetaData(o))},
		cidata.NetworkConfig:    {Data: []byte(network)},
		cloudinit.SeedBinary:    {Path: netbootd},
		cloudinit.SeedUnit:      {Data: netbootdUnit},
		cloudinit.SeedCA:        {Data: s.Credentials.CA},
		cloudinit.SeedServerCrt: {Data: s.Credentials.ServerCrt},
		cloudinit.SeedServerKey: {Data: s.Credentials.ServerKey},
	})
	return err
}
