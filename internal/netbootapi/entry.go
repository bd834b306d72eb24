// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
)

// Boot is the desired outcome of a machine's network boot.
type Boot string

const (
	// BootInstall serves the installer until it reports completion.
	BootInstall Boot = "Install"
	// BootDisk makes the machine continue with its next boot device.
	BootDisk Boot = "Disk"
	// BootNone assigns the machine its address and offers no boot file.
	BootNone Boot = "None"
)

// Machine is one declared machine: the decoded Entry of its UID.
type Machine struct {
	// UID of the Kubernetes object.
	UID string `json:"-"`
	Content
	Control
}

// Content is what a machine is and what it is installed from. While an installation of
// it is in progress netbootd keeps it, whatever is put (MachineState.Installing), so
// that what is recorded as installed is what was served.
type Content struct {
	Name     string     `json:"name"`
	Hostname string     `json:"hostname"`
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	// ProfileDigest identifies the profile with which the machine is installed.
	// netbootd only echoes it.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// Declared identifies the values that the machine is installed with. netbootd only
	// echoes it.
	Declared *Declaration `json:"declared,omitempty"`

	// The files of an installation. They are all set if Boot is BootInstall.
	Kernel  Blob `json:"kernel,omitzero"`
	Initrd  Blob `json:"initrd,omitzero"`
	Overlay Blob `json:"overlay,omitzero"`
	Image   Blob `json:"image,omitzero"`
	// ImagePin is the expected digest of the image's content
	// (imagestream.Header.Digest). The installer checks it while streaming,
	// which the digest of the whole blob would not allow.
	ImagePin   string   `json:"imagePin,omitempty"`
	KernelArgs []string `json:"kernelArgs,omitempty"`
	// Handoff is how the installer starts the installed system: "Reset" or
	// "Kexec".
	Handoff string `json:"handoff,omitempty"`
	// RootDiskName is the target's name for the disk that RootDisk selects; "" is its first
	// one. netbootd only echoes it.
	RootDiskName string `json:"rootDiskName,omitempty"`
	// RootDisk, Root and Cleaning are those of installerapi.Plan.
	RootDisk RootDisk      `json:"rootDisk,omitzero"`
	Root     RootPartition `json:"root,omitzero"`
	Cleaning string        `json:"cleaning,omitempty"`

	// Texts, each at most MaxTextBytes: templates (text/template with the values of
	// cloudinit.Values), and SSH public keys, one per line, that may log in as SSHUser.
	IPXETemplate          Blob              `json:"ipxeTemplate,omitzero"`
	UserDataTemplate      Blob              `json:"userDataTemplate,omitzero"`
	NetworkConfigTemplate Blob              `json:"networkConfigTemplate,omitzero"`
	SSHAuthorizedKeys     Blob              `json:"sshAuthorizedKeys,omitzero"`
	Parameters            map[string]string `json:"parameters,omitempty"`
	// SSHUser is the account that kubectl-lab uses.
	SSHUser string `json:"sshUser,omitempty"`
}

// Texts returns the texts of the content that are not empty.
func (c *Content) Texts() []Blob {
	return named(c.IPXETemplate, c.UserDataTemplate, c.NetworkConfigTemplate, c.SSHAuthorizedKeys)
}

// Files returns the files of an installation that the content names.
func (c *Content) Files() []Blob { return named(c.Kernel, c.Initrd, c.Overlay, c.Image) }

func named(blobs ...Blob) []Blob {
	var out []Blob
	for _, b := range blobs {
		if b.Digest != "" {
			out = append(out, b)
		}
	}
	return out
}

// Control is what changes in the course of a machine's life and is never kept back.
type Control struct {
	Boot Boot `json:"boot"`
	// Attempt identifies one installation. A new value discards the machine's
	// observed state and lets BootInstall install again.
	Attempt string `json:"attempt"`
	// BootConfirmed is the attempt for which the manager has set the firmware
	// boot order to disk first. netbootd delays its response to the installer's
	// last report until then, so that the reset that follows boots from the disk.
	BootConfirmed string `json:"bootConfirmed,omitempty"`
	// PowerOn identifies the machine's current power-on; it changes whenever
	// the manager starts the machine again. SSH is then probed from scratch, so
	// that an earlier result never counts for a later power-on. It is empty
	// while the machine is off.
	PowerOn string `json:"powerOn,omitempty"`
	// InstanceID is cloud-init's instance-id.
	InstanceID string `json:"instanceID"`
	// Token is the boot secret: it is in the URLs from which the machine is installed, and
	// is in force only while it may be (policy.MayInstall). SeedToken is the seed secret: it
	// is in the URLs of the installed system's cloud-init data, which are served until it has
	// phoned home (policy.MaySeed). Both have at least 128 bits, are URL-safe, and differ.
	Token     string `json:"token"`
	SeedToken string `json:"seedToken"`
	// SeedEnded is set once the manager knows that the attempt has phoned home, in case
	// netbootd has lost its record of it.
	SeedEnded bool `json:"seedEnded,omitempty"`
}

// Entry is a machine as it is put and stored: the bytes of its two parts, each with a
// digest of its own.
type Entry struct {
	// Content is nil in a request that keeps the content that netbootd has.
	Content []byte
	Control []byte
}

// NewEntry encodes a machine; a nil content keeps the one that netbootd has.
func NewEntry(content *Content, control Control) Entry {
	e := Entry{Control: mustEncode(control)}
	if content != nil {
		e.Content = mustEncode(content)
	}
	return e
}

// ContentDigest and ControlDigest return the digests of the parts; "" of one that is
// nil.
func (e Entry) ContentDigest() string { return digestOf(e.Content) }

// ControlDigest is documented with ContentDigest.
func (e Entry) ControlDigest() string { return digestOf(e.Control) }

func digestOf(part []byte) string {
	if part == nil {
		return ""
	}
	return Digest(part)
}

// Encode returns the JSON object with the parts as they are, byte for byte.
func (e Entry) Encode() []byte {
	var out bytes.Buffer
	out.WriteByte('{')
	if e.Content != nil {
		out.WriteString(`"content":`)
		out.Write(e.Content)
		out.WriteByte(',')
	}
	out.WriteString(`"control":`)
	out.Write(e.Control)
	out.WriteByte('}')
	return out.Bytes()
}

// DecodeEntry is the inverse of Encode. The error wraps ErrInvalid.
func DecodeEntry(raw []byte) (Entry, error) {
	var parts struct {
		Content json.RawMessage `json:"content"`
		Control json.RawMessage `json:"control"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return Entry{}, fmt.Errorf("%w: decoding the entry: %w", ErrInvalid, err)
	}
	if len(parts.Control) == 0 {
		return Entry{}, fmt.Errorf("%w: the entry has no control part", ErrInvalid)
	}
	e := Entry{Control: parts.Control}
	if len(parts.Content) > 0 {
		e.Content = parts.Content
	}
	return e, nil
}

// Machine decodes an entry with both parts. The error wraps ErrInvalid.
func (e Entry) Machine(uid string) (*Machine, error) {
	m := &Machine{UID: uid}
	if err := json.Unmarshal(e.Content, &m.Content); err != nil {
		return nil, fmt.Errorf("%w: decoding the content: %w", ErrInvalid, err)
	}
	if err := json.Unmarshal(e.Control, &m.Control); err != nil {
		return nil, fmt.Errorf("%w: decoding the control part: %w", ErrInvalid, err)
	}
	return m, nil
}
