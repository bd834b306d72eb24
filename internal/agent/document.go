// SPDX-License-Identifier: Apache-2.0

// Package agent is the protocol between the manager and netbootd, the program
// inside the provisioning VM: the documents that go either way and the client
// that carries them over mutual TLS.
//
// The manager pushes one Config, the whole desired state; netbootd answers
// with a stream of State, the whole observed state. Both are level-triggered:
// either side may die and catch up from the other's document. The package
// holds no policy: what a machine boots is decided in internal/netboot, what
// its phase is in internal/plan.
package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Config is everything one netbootd is to serve. It replaces what was there
// before; pushing the same document twice changes nothing.
type Config struct {
	Network  Network   `json:"network"`
	Programs []Program `json:"programs,omitempty"`
	Machines []Machine `json:"machines,omitempty"`
}

// Digest names the document by its content ("sha256:<hex>" of its JSON form),
// so that either side can tell whether the other has it.
func (c *Config) Digest() string {
	raw, err := json.Marshal(c)
	if err != nil {
		// Every field marshals by construction.
		panic(fmt.Sprintf("marshalling agent.Config: %v", err))
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Network is the lab network as netbootd serves it.
type Network struct {
	// MAC of the server's own lab NIC, by which netbootd finds its interface.
	MAC string `json:"mac"`
	// Address is the server's static address with the lab's prefix length.
	Address netip.Prefix `json:"address"`
	// RangeStart and RangeEnd bound the pool for machines nobody declared.
	RangeStart netip.Addr `json:"rangeStart"`
	RangeEnd   netip.Addr `json:"rangeEnd"`
	// LeaseSeconds is the lease time, at least 60.
	LeaseSeconds int `json:"leaseSeconds"`
	// MTU handed to operating systems by DHCP option 26; 0 leaves it out.
	MTU int `json:"mtu,omitempty"`
	// NAT routes targets to the uplink and makes the server their gateway.
	NAT bool `json:"nat,omitempty"`
	// DNS servers handed out; empty with NAT means that the uplink's own
	// resolver is handed out.
	DNS    []netip.Addr `json:"dns,omitempty"`
	Domain string       `json:"domain,omitempty"`
}

// Blob is content that the manager uploads once and netbootd keeps by digest.
type Blob struct {
	// Digest is "sha256:<64 hex>".
	Digest string `json:"digest"`
	// Size in bytes.
	Size int64 `json:"size"`
}

// Program is a network boot program (iPXE) for one client architecture.
type Program struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	// Name is the TFTP file name, for example "ipxe.efi".
	Name string `json:"name"`
	Blob Blob   `json:"blob"`
}

// Boot says what a machine's network boot leads to.
type Boot string

const (
	// BootInstall serves the installer until it reports that it is done.
	BootInstall Boot = "Install"
	// BootDisk answers with "go on with the next boot device".
	BootDisk Boot = "Disk"
	// BootNone gives the machine its address and no boot file.
	BootNone Boot = "None"
)

// Machine is one declared machine and what it is to become.
type Machine struct {
	// UID of the Kubernetes object; names the machine in State.
	UID      string     `json:"uid"`
	Name     string     `json:"name"`
	Hostname string     `json:"hostname"`
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	Boot         Boot   `json:"boot"`
	// Attempt identifies one installation. A new value forgets what was
	// observed of the machine before and lets BootInstall install again.
	Attempt string `json:"attempt"`
	// ProfileDigest names what the machine is installed from. netbootd only
	// echoes it.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// BootConfirmed is the attempt whose firmware boot order the manager has
	// turned to the disk. netbootd holds back its answer to the installer's
	// last report until it sees this, so that the reset that follows finds
	// the order already turned.
	BootConfirmed string `json:"bootConfirmed,omitempty"`
	// PowerOn identifies the machine's present power-on; it changes whenever
	// the manager starts the machine anew. SSH is asked again from scratch when
	// it changes, so that an answer from before never counts for after. Empty
	// while the machine is off.
	PowerOn string `json:"powerOn,omitempty"`
	// InstanceID is cloud-init's instance-id.
	InstanceID string `json:"instanceID"`
	// Token is the secret in the machine's URLs (at least 128 bits, URL-safe).
	Token string `json:"token"`

	Kernel  Blob `json:"kernel"`
	Initrd  Blob `json:"initrd"`
	Overlay Blob `json:"overlay"`
	Image   Blob `json:"image"`
	// ImagePin is what the installer is told to expect of the image's content
	// (imagestream.Header.Digest): it checks while it streams, which the
	// digest of the whole blob would not allow.
	ImagePin   string   `json:"imagePin"`
	KernelArgs []string `json:"kernelArgs,omitempty"`
	// Handoff is how the installer passes to the installed system:
	// "Reset" or "Kexec".
	Handoff string `json:"handoff,omitempty"`

	// Templates (text/template with the values of cloudinit.Values).
	IPXETemplate          string            `json:"ipxeTemplate,omitempty"`
	UserDataTemplate      string            `json:"userDataTemplate,omitempty"`
	NetworkConfigTemplate string            `json:"networkConfigTemplate,omitempty"`
	Parameters            map[string]string `json:"parameters,omitempty"`
	// SSHUser and SSHAuthorizedKeys make the account that kubectl-lab uses.
	SSHUser           string   `json:"sshUser,omitempty"`
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys,omitempty"`
}

// State is everything netbootd has observed. It is sent whole whenever it
// changed, and again at least every 10 s so that a dead connection shows.
type State struct {
	// Version of netbootd and when it started.
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	// ConfigDigest is the document in force; empty before the first.
	ConfigDigest string `json:"configDigest,omitempty"`
	// ConfigError is why the last pushed document is not in force.
	ConfigError string `json:"configError,omitempty"`
	// Credentials names (ServerCredentials.Digest) what netbootd serves the
	// manager with.
	Credentials string `json:"credentials,omitempty"`
	// Services by name: "dhcp", "tftp", "http", "nat".
	Services map[string]Service `json:"services,omitempty"`
	// MissingBlobs are named by Config and not here yet.
	MissingBlobs []Blob `json:"missingBlobs,omitempty"`
	// Machines by UID.
	Machines map[string]MachineState `json:"machines,omitempty"`
	Leases   []Lease                 `json:"leases,omitempty"`
	// Unknown lists clients that nobody declared, latest first, bounded.
	Unknown []UnknownClient `json:"unknown,omitempty"`
	// Refused counts requests that were turned away, by reason.
	Refused map[string]int64 `json:"refused,omitempty"`
}

// Service is one of netbootd's services.
type Service struct {
	Serving bool   `json:"serving"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"`
}

// MachineState is what was observed of one machine in its current attempt.
// A zero time means "not seen". Times are by the provisioning VM's clock.
type MachineState struct {
	Attempt string `json:"attempt"`

	DiscoverAt time.Time `json:"discoverAt,omitzero"` // firmware's first DISCOVER
	RequestAt  time.Time `json:"requestAt,omitzero"`  // firmware's lease was acknowledged
	ProgramAt  time.Time `json:"programAt,omitzero"`  // network boot program sent whole
	ScriptAt   time.Time `json:"scriptAt,omitzero"`   // iPXE script fetched
	KernelAt   time.Time `json:"kernelAt,omitzero"`   // kernel sent whole
	InitrdAt   time.Time `json:"initrdAt,omitzero"`   // initrd and overlay sent whole

	// ProfileDigest is Machine.ProfileDigest as it was when the installer last
	// fetched its plan: what is, or was, installed.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// Install is the installer's last report; nil before its first.
	Install *InstallState `json:"install,omitempty"`

	// DiskBootAt is when a network boot was answered with "go to the disk".
	DiskBootAt time.Time `json:"diskBootAt,omitzero"`
	// CloudInitAt is when the installed system first fetched its meta-data.
	CloudInitAt time.Time `json:"cloudInitAt,omitzero"`
	// CloudInit is how far the installed system's cloud-init says it is; nil
	// before its first report.
	CloudInit *CloudInitState `json:"cloudInit,omitempty"`
	// PhoneHome is the installed system's own report; nil before it.
	PhoneHome *PhoneHome `json:"phoneHome,omitempty"`
	SSH       SSHState   `json:"ssh"`
	// Warnings are the latest noteworthy failures (a TFTP abort, a refused
	// request, a template that does not render), oldest first, at most 10.
	Warnings []Warning `json:"warnings,omitempty"`
}

// Warning is one noteworthy failure.
type Warning struct {
	At time.Time `json:"at"`
	// Reason is a CamelCase word, for example "TFTPAborted".
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// InstallState is the installer's progress as netbootd keeps it.
type InstallState struct {
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	DoneAt    time.Time `json:"doneAt,omitzero"`
	// Stage is the install.Stage last reported.
	Stage        string `json:"stage"`
	BytesWritten int64  `json:"bytesWritten"`
	BytesTotal   int64  `json:"bytesTotal"`
	// Error is the installer's error text; empty while all is well.
	Error string `json:"error,omitempty"`
}

// CloudInitState sums up the events that cloud-init's webhook handler posted.
type CloudInitState struct {
	UpdatedAt time.Time `json:"updatedAt"`
	// EndedAt is when the last stage of the present boot ended; zero while
	// cloud-init runs.
	EndedAt time.Time `json:"endedAt,omitzero"`
	// Stage is the one heard of last: "init-network", "modules-config" or
	// "modules-final".
	Stage string `json:"stage"`
	// Module is what the stage runs, such as "config-scripts_user"; empty
	// between two.
	Module string `json:"module,omitempty"`
	// Failures of this installation, at most 8. What runs once per installation
	// and failed stays failed, whatever later boots say.
	Failures []CloudInitFailure `json:"failures,omitempty"`
}

// CloudInitFailure is one stage or module that ended with the result FAIL.
type CloudInitFailure struct {
	Stage string `json:"stage"`
	// Module is empty when the stage failed as a whole.
	Module string `json:"module,omitempty"`
	// Description is cloud-init's own.
	Description string `json:"description,omitempty"`
}

// PhoneHome is what cloud-init's phone_home module posted.
type PhoneHome struct {
	At         time.Time `json:"at"`
	InstanceID string    `json:"instanceID"`
	Hostname   string    `json:"hostname"`
	// HostKeys are the SSH host public keys in authorized_keys form.
	HostKeys []string `json:"hostKeys,omitempty"`
}

// SSHState is the last answer of the machine's SSH port. netbootd asks while
// Machine.PowerOn is set and the machine has phoned home in this attempt or
// Machine.Boot is BootDisk.
type SSHState struct {
	// PowerOn is the Machine.PowerOn that this answer is about.
	PowerOn string `json:"powerOn,omitempty"`
	// Up is true when the port sent an SSH identification string (RFC 4253,
	// section 4.2) at CheckedAt. It turns false when several questions in a row
	// got no answer.
	Up        bool      `json:"up"`
	CheckedAt time.Time `json:"checkedAt,omitzero"`
	// UpSince is when Up last turned true.
	UpSince time.Time `json:"upSince,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Lease is one DHCP lease in force.
type Lease struct {
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	Hostname string     `json:"hostname,omitempty"`
	Expires  time.Time  `json:"expires"`
	Reserved bool       `json:"reserved,omitempty"`
}

// UnknownClient is a client that nobody declared; it got no boot file.
type UnknownClient struct {
	MAC          string     `json:"mac"`
	Address      netip.Addr `json:"address,omitzero"`
	Architecture string     `json:"architecture,omitempty"`
	LastSeen     time.Time  `json:"lastSeen"`
}
