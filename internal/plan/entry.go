// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Content is the verified set of artifacts that a profile resolves to.
type Content struct {
	Kernel, Initrd, Overlay, Image netbootapi.Blob
	// ImagePin is the digest against which the installer verifies the image.
	ImagePin string
	// DiskBytes is the disk size that the image needs.
	DiskBytes int64
	// Digest covers everything that a target is installed from.
	Digest string
}

// Templates are a profile's templates, read from the profile or from the Secrets that
// it refers to.
type Templates struct {
	UserData      string
	NetworkConfig string
}

// AttemptID returns the ID of a target's installation attempt: the one that its
// disks were created for, or else the first one. The system on adopted disks was given the
// ID, and what is derived from it, by the target that installed it.
func AttemptID(t *v1alpha1.BareMetalTarget) string {
	uid, id := string(t.UID), max(1, LastAttempt(t))
	if a := t.Status.Adoption; a != nil && id <= a.Attempt {
		uid = a.UID
	}
	return fmt.Sprintf("%s-%d", uid, id)
}

// LastAttempt returns the ID of a target's current or last installation attempt; 0
// before the first one.
func LastAttempt(t *v1alpha1.BareMetalTarget) int64 {
	if t.Status.Install == nil {
		return 0
	}
	return t.Status.Install.ID
}

// Generation returns the installGeneration that is to be installed: the declared one,
// unless a higher one was reached already.
func Generation(t *v1alpha1.BareMetalTarget) int64 {
	return max(t.Spec.InstallGeneration, t.Status.HighestInstallGeneration)
}

// Token returns the boot secret of a target's installation attempt. Its
// 192 bits are derived from the server's key and the attempt, so that it
// survives restarts without being stored and each attempt invalidates the
// tokens of earlier ones.
func Token(key []byte, t *v1alpha1.BareMetalTarget) string { return secretOf(key, AttemptID(t)) }

// SeedToken returns the seed secret of a target's installation attempt, with the
// properties of Token, from which it does not follow.
func SeedToken(key []byte, t *v1alpha1.BareMetalTarget) string {
	return secretOf(key, "seed of "+AttemptID(t))
}

func secretOf(key []byte, purpose string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:24])
}

// IsInstalled reports whether the target's disk holds the installation that is
// declared.
func IsInstalled(t *v1alpha1.BareMetalTarget) bool {
	return t.Status.InstalledGeneration == Generation(t)
}

// HasInstallation reports whether the target's disk holds an installation, either the
// declared one or an earlier one.
func HasInstallation(t *v1alpha1.BareMetalTarget) bool { return t.Status.InstalledGeneration != 0 }

// ServerConfig returns the configuration of the netbootd of the server called name.
func ServerConfig(n Network, name, labMAC string, programs []netbootapi.Program, tokenKey []byte) netbootapi.ServerConfig {
	config := netbootapi.ServerConfig{Network: n.NetbootdConfig(labMAC), Programs: slices.Clone(programs), TextKey: textKey(tokenKey)}
	config.Network.ServerName = label(name)
	slices.SortFunc(config.Programs, func(a, b netbootapi.Program) int { return strings.Compare(a.Architecture, b.Architecture) })
	return config
}

// textKey returns the key with which a server's texts are addressed.
func textKey(tokenKey []byte) []byte {
	mac := hmac.New(sha256.New, tokenKey)
	mac.Write([]byte("texts"))
	return mac.Sum(nil)
}

// EntryInput is what a target's entry in netbootd is computed from.
type EntryInput struct {
	Target *v1alpha1.BareMetalTarget
	// Profile is nil if it does not exist, Content while its artifacts are not
	// available.
	Profile   *v1alpha1.BootProfile
	Content   *Content
	Templates Templates
	// Network is that of the target's server; zero if it is unknown.
	Network Network
	// TokenKey is the server's. It may be nil if the entry is only checked.
	TokenKey []byte
	// SSHKeys are authorized to log in to targets.
	SSHKeys []string
	// PowerOn is when the target's process started; zero if it is not running.
	PowerOn time.Time
	// Seen is what netbootd reports of the current attempt, nil for nothing.
	Seen *netbootapi.MachineState
}

// TargetEntry is a target's entry in netbootd.
type TargetEntry struct {
	// Content is nil if netbootd is to keep the one that it has.
	Content *netbootapi.Content
	Control netbootapi.Control
	// Texts has the texts of the content, by digest. If netbootd is to keep its content, it
	// has those that the content may name, which netbootd may have lost.
	Texts map[string]string
}

// Entry returns the entry of a target; ok is false while the target has no address.
func Entry(in EntryInput) (entry TargetEntry, ok bool) {
	allocation, ok := AllocationOf(in.Target)
	if !ok {
		return TargetEntry{}, false
	}
	t := in.Target
	entry.Control = netbootapi.Control{
		Boot:       netbootapi.BootNone,
		Attempt:    AttemptID(t),
		InstanceID: "pxelab-" + AttemptID(t),
		Token:      Token(in.TokenKey, t),
		SeedToken:  SeedToken(in.TokenKey, t),
		SeedEnded:  HasInstallation(t) && len(t.Status.SSHHostKeys) > 0,
	}
	if !in.PowerOn.IsZero() {
		entry.Control.PowerOn = PowerOnID(in.PowerOn)
	}
	switch {
	case HasInstallation(t):
		entry.Control.Boot = netbootapi.BootDisk
		entry.Control.BootConfirmed = entry.Control.Attempt
	case in.Content != nil && in.Profile != nil, in.isInstalling():
		entry.Control.Boot = netbootapi.BootInstall
	}
	entry.Texts = map[string]string{}
	content := in.content(allocation, func(text string) netbootapi.Blob {
		blob := netbootapi.TextBlob(textKey(in.TokenKey), text)
		if text != "" {
			entry.Texts[blob.Digest] = text
		}
		return blob
	})
	// Without its profile's content, a target keeps what it was given: an edit or the
	// removal of a profile does not end an installation.
	if in.Content == nil && in.Seen != nil && in.Seen.Content != "" {
		return entry, true
	}
	entry.Content = content
	return entry, true
}

// isInstalling reports whether the target's machine is being installed, or has been
// started for that: it is started once netbootd serves its installation.
func (in EntryInput) isInstalling() bool {
	s := in.Seen
	return s != nil && (s.Installing || s.Content != "" && !in.PowerOn.IsZero())
}

func (in EntryInput) content(a AddressAllocation, text func(string) netbootapi.Blob) *netbootapi.Content {
	t := in.Target
	c := &netbootapi.Content{
		Name:         t.Name,
		Hostname:     Hostname(t),
		MAC:          a.MAC,
		Address:      a.Address,
		Architecture: string(t.Spec.Machine.Architecture),
		Parameters:   t.Spec.Parameters,
		// An installed machine may request its cloud-init data again, which
		// contains the account and keys.
		SSHAuthorizedKeys: text(strings.Join(in.SSHKeys, "\n")),
		RootDiskName:      rootDiskName(t),
		RootDisk:          rootDisk(t),
	}
	if c.Cleaning = string(t.Spec.Cleaning); t.Spec.Cleaning == v1alpha1.CleaningNone {
		c.Cleaning = ""
	}
	if in.Profile != nil {
		c.SSHUser = in.Profile.Spec.SSHUser
		c.IPXETemplate = text(in.Profile.Spec.IPXETemplate)
		c.UserDataTemplate = text(in.Templates.UserData)
		c.NetworkConfigTemplate = text(in.Templates.NetworkConfig)
		if image := in.Profile.Spec.Image; image != nil {
			c.KernelArgs = image.KernelArgs
			c.Handoff = string(image.Handoff)
			if root := image.Root; root != nil {
				c.Root = netbootapi.RootPartition{Number: int(root.Number), Label: root.Label}
			}
		}
	}
	// An installed machine keeps its files, so that the server has them for the
	// next installation.
	if in.Content != nil {
		c.Kernel = in.Content.Kernel
		c.Initrd = in.Content.Initrd
		c.Overlay = in.Content.Overlay
		c.Image = in.Content.Image
		c.ImagePin = in.Content.ImagePin
		c.ProfileDigest = in.Content.Digest
	}
	c.Declared = in.declaration(c)
	return c
}

// Declared identifies the values from which a target would be installed now; nil while it
// has no address or its server no key.
func Declared(in EntryInput) *netbootapi.Declaration {
	allocation, ok := AllocationOf(in.Target)
	if !ok || in.TokenKey == nil {
		return nil
	}
	key := textKey(in.TokenKey)
	return in.content(allocation, func(text string) netbootapi.Blob { return netbootapi.TextBlob(key, text) }).Declared
}

// CheckEntry returns a target's entry as a machine for a check of what it would be
// served, and the error with which netbootd would refuse it. ok is false while the
// target has no address.
func CheckEntry(n Network, labMAC string, in EntryInput) (m *netbootapi.Machine, ok bool, err error) {
	in.Seen = nil // a check is of the whole entry
	// Nothing that is served depends on it, so a power-on must not cause another check.
	in.PowerOn = time.Time{}
	entry, ok := Entry(in)
	if !ok {
		return nil, false, nil
	}
	// Nor does anything that is rendered depend on whether the system has phoned home.
	entry.Control.SeedEnded = false
	m = &netbootapi.Machine{UID: string(in.Target.UID), Content: *entry.Content, Control: entry.Control}
	network := n.NetbootdConfig(labMAC)
	if err := m.Validate(&network); err != nil {
		return nil, true, err
	}
	if size := len(netbootapi.NewEntry(entry.Content, entry.Control).Encode()); size > maxCheckedEntry {
		return nil, true, fmt.Errorf("its parameters and kernel arguments are too large: %d bytes, at most %d can be served",
			size, maxCheckedEntry)
	}
	return m, true, nil
}

// maxCheckedEntry limits an entry that is checked, in bytes. What it lacks fits in the
// rest: the address of the SSH keys, the power-on and the confirmation of the boot order.
const maxCheckedEntry = netbootapi.MaxEntryBytes - 1<<10

// PowerOnID returns the ID of the power-on at a time.
func PowerOnID(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// Hostname returns the host name of the installed system.
func Hostname(t *v1alpha1.BareMetalTarget) string {
	if t.Spec.Hostname != "" {
		return t.Spec.Hostname
	}
	return label(t.Name)
}

// label returns the host name of an object, which is a DNS label, while object names may
// contain dots.
func label(name string) string { return strings.ReplaceAll(name, ".", "-") }
