// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/agent"
)

// Content is what a profile's artifacts came to: what targets get, verified.
type Content struct {
	Kernel, Initrd, Overlay, Image agent.Blob
	// ImagePin is what the installer checks the image against.
	ImagePin string
	// DiskBytes is the disk size that the image needs.
	DiskBytes int64
	// Digest sums up everything a target is installed from.
	Digest string
}

// Texts are a profile's templates, resolved from wherever they were kept.
type Texts struct {
	UserData      string
	NetworkConfig string
}

// Attempt names one attempt at the installation of a target: the one that its
// disks were made for, or else the first to come.
func Attempt(t *v1alpha1.BareMetalTarget) string {
	generation, number := t.Status.DiskGeneration, attemptNumber(t)
	if generation == 0 {
		generation, number = t.Spec.InstallGeneration, 1
	}
	if number == 1 {
		return fmt.Sprintf("%s-%d", t.UID, generation)
	}
	return fmt.Sprintf("%s-%d-%d", t.UID, generation, number)
}

func attemptNumber(t *v1alpha1.BareMetalTarget) int64 {
	if t.Status.Attempts == nil {
		return 1 // a status of old
	}
	return t.Status.Attempts.Number
}

// Token is the secret in the URLs of one attempt at a target's installation:
// 192 bits derived from the server's key, so that it survives restarts without
// being kept anywhere, and so that an earlier attempt's is void.
func Token(key []byte, t *v1alpha1.BareMetalTarget) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(Attempt(t)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:24])
}

// Installed reports whether the target's disk holds the installation that is
// declared.
func Installed(t *v1alpha1.BareMetalTarget) bool {
	return t.Status.InstalledGeneration == t.Spec.InstallGeneration
}

// OnDisk reports whether the target's disk holds an installation, be it the one
// that is declared or the one before.
func OnDisk(t *v1alpha1.BareMetalTarget) bool { return t.Status.InstalledGeneration != 0 }

// DocumentTarget is what the document says of one target.
type DocumentTarget struct {
	Target  *v1alpha1.BareMetalTarget
	Profile *v1alpha1.BootProfile
	// Content is nil while the profile's artifacts are not here.
	Content *Content
	Texts   Texts
	// PowerOn is when the target's present process started; zero when it does
	// not run.
	PowerOn time.Time
}

// DocumentInput is everything that a server's document is made from.
type DocumentInput struct {
	Network  Network
	LabMAC   string
	Programs []agent.Program
	TokenKey []byte
	// SSHKeys may log in to targets.
	SSHKeys []string
	Targets []DocumentTarget
}

// Document is all that a server's netbootd is to serve. Targets without an
// address are left out, and so are those that cannot be served: netbootd takes
// a document whole or not at all, and one target must not harm the others.
func Document(in DocumentInput) *agent.Config {
	config := &agent.Config{Network: in.Network.Document(in.LabMAC), Programs: slices.Clone(in.Programs)}
	slices.SortFunc(config.Programs, func(a, b agent.Program) int { return strings.Compare(a.Architecture, b.Architecture) })
	for _, t := range in.Targets {
		addr, err := netip.ParseAddr(t.Target.Status.Address)
		if err != nil || t.Target.Status.MACAddress == "" {
			continue
		}
		m := in.machine(t, addr)
		alone := &agent.Config{Network: config.Network, Machines: []agent.Machine{m}}
		if alone.Validate() == nil {
			config.Machines = append(config.Machines, m)
		}
	}
	slices.SortFunc(config.Machines, func(a, b agent.Machine) int { return strings.Compare(a.UID, b.UID) })
	return config
}

// CheckTarget says why a target cannot be served; nil if it can. A target
// without an address can.
func CheckTarget(n Network, labMAC string, d DocumentTarget) error {
	addr, err := netip.ParseAddr(d.Target.Status.Address)
	if err != nil {
		return nil //nolint:nilerr // there is nothing to check yet
	}
	in := DocumentInput{Network: n}
	return (&agent.Config{Network: n.Document(labMAC), Machines: []agent.Machine{in.machine(d, addr)}}).Validate()
}

func (in *DocumentInput) machine(d DocumentTarget, addr netip.Addr) agent.Machine {
	t := d.Target
	m := agent.Machine{
		UID:          string(t.UID),
		Name:         t.Name,
		Hostname:     Hostname(t),
		MAC:          t.Status.MACAddress,
		Address:      addr,
		Architecture: string(t.Spec.Machine.Architecture),
		Boot:         agent.BootNone,
		Attempt:      Attempt(t),
		InstanceID:   "pxelab-" + Attempt(t),
		Token:        Token(in.TokenKey, t),
		Parameters:   t.Spec.Parameters,
		// The account and keys stay with an installed machine that is asked
		// for its data again.
		SSHAuthorizedKeys: in.SSHKeys,
	}
	if !d.PowerOn.IsZero() {
		m.PowerOn = PowerOn(d.PowerOn)
	}
	if d.Profile != nil {
		m.SSHUser = d.Profile.Spec.SSHUser
		m.KernelArgs = d.Profile.Spec.KernelArgs
		m.Handoff = string(d.Profile.Spec.Install.Handoff)
		m.IPXETemplate = d.Profile.Spec.IPXETemplate
		m.UserDataTemplate = d.Texts.UserData
		m.NetworkConfigTemplate = d.Texts.NetworkConfig
	}
	switch {
	case OnDisk(t):
		m.Boot, m.BootConfirmed = agent.BootDisk, m.Attempt
	case d.Content != nil && d.Profile != nil:
		m.Boot = agent.BootInstall
	}
	// Content stays with an installed machine, too: the server keeps it for the
	// next installation.
	if d.Content != nil {
		m.Kernel, m.Initrd, m.Overlay, m.Image = d.Content.Kernel, d.Content.Initrd, d.Content.Overlay, d.Content.Image
		m.ImagePin, m.ProfileDigest = d.Content.ImagePin, d.Content.Digest
	}
	return m
}

// PowerOn names the power-on that began at a time.
func PowerOn(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// Hostname of the installed system.
func Hostname(t *v1alpha1.BareMetalTarget) string {
	if t.Spec.Hostname != "" {
		return t.Spec.Hostname
	}
	// A DNS label: object names may also hold dots.
	return strings.ReplaceAll(t.Name, ".", "-")
}
