// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"net/netip"
	"time"
)

// State is the observed state of one netbootd but for its machines. The parts that
// guests determine are bounded, so that it encodes to at most MaxServerBytes.
type State struct {
	// Version of netbootd and when it started.
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	// Server is the digest of the ServerConfig in force; empty before the first.
	Server string `json:"server,omitempty"`
	// Credentials is the digest (ServerCredentials.Digest) of the credentials
	// that netbootd serves the manager with.
	Credentials string `json:"credentials,omitempty"`
	// Services by name: "dhcp", "tftp", "http", "nat".
	Services map[string]Service `json:"services,omitempty"`
	// MissingBlobs are named by the ServerConfig in force but are not stored: they
	// were lost.
	MissingBlobs []Blob `json:"missingBlobs,omitempty"`
	// Leases in force, those of declared machines first, bounded.
	Leases []Lease `json:"leases,omitempty"`
	// Unknown lists undeclared clients, the last discovered first, bounded. A
	// client that asks again changes nothing but its LastSeen.
	Unknown []UnknownClient `json:"unknown,omitempty"`
	// Refused counts the refused requests by reason.
	Refused map[string]int64 `json:"refused,omitempty"`
}

// Service is one of netbootd's services.
type Service struct {
	Serving bool   `json:"serving"`
	Address string `json:"address,omitempty"`
	Error   string `json:"error,omitempty"`
}

// MachineState is the observed state of one machine in its current attempt. A zero
// time means "not observed". Times are of the provisioning VM's clock. The parts that
// guests determine are bounded, so that it encodes to at most MaxMachineBytes.
type MachineState struct {
	// Content and Control are the digests of the Entry in force.
	Content string `json:"content,omitempty"`
	Control string `json:"control,omitempty"`
	// Installing is set while an installation of the content is in progress, from
	// the installer's request for its plan until the installed system has phoned
	// home. Until then another content that is put is not adopted; it must be put
	// again. A power-off ends it only if the installer was not done.
	Installing bool `json:"installing,omitempty"`
	// Problem is why the entry in force is not served, as after a change of the
	// network that excludes its address; empty if it is.
	Problem string `json:"problem,omitempty"`
	// MissingBlobs are named by the entry in force but are not stored: those that
	// its Boot does not need, and those that were lost.
	MissingBlobs []Blob `json:"missingBlobs,omitempty"`

	Attempt string `json:"attempt"`

	DiscoverAt time.Time `json:"discoverAt,omitzero"` // firmware's first DISCOVER
	RequestAt  time.Time `json:"requestAt,omitzero"`  // firmware's lease was acknowledged
	ProgramAt  time.Time `json:"programAt,omitzero"`  // network boot program sent whole
	ScriptAt   time.Time `json:"scriptAt,omitzero"`   // iPXE script fetched
	KernelAt   time.Time `json:"kernelAt,omitzero"`   // kernel sent whole
	InitrdAt   time.Time `json:"initrdAt,omitzero"`   // initrd and overlay sent whole

	// ProfileDigest is Machine.ProfileDigest at the time when the installer last
	// fetched its plan: the content that is being or was installed.
	ProfileDigest string `json:"profileDigest,omitempty"`
	// Declared is Machine.Declared at that time.
	Declared *Declaration `json:"declared,omitempty"`
	// RootDiskName is Machine.RootDiskName at that time.
	RootDiskName string `json:"rootDiskName,omitempty"`
	// Network is the lab network that this plan described, such as 10.88.0.0/20.
	Network string `json:"network,omitempty"`
	// ImageAt is when the last byte of the image was sent, after all bytes before it.
	ImageAt time.Time `json:"imageAt,omitzero"`
	// Install is the installer's last report; nil before its first.
	Install *InstallState `json:"install,omitempty"`
	// Hardware is the machine's inventory, which the installer reports once in each
	// attempt; nil before it.
	Hardware *Hardware `json:"hardware,omitempty"`

	// DiskBootAt is when a network boot was directed to the disk.
	DiskBootAt time.Time `json:"diskBootAt,omitzero"`
	// CloudInitAt is when the installed system first fetched its meta-data.
	CloudInitAt time.Time `json:"cloudInitAt,omitzero"`
	// CloudInit is the progress that the installed system's cloud-init reports; nil
	// before its first report.
	CloudInit *CloudInitState `json:"cloudInit,omitempty"`
	// PhoneHome is the installed system's phone-home report; nil before it.
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

// InstallState is the installer's last reported progress.
type InstallState struct {
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	DoneAt    time.Time `json:"doneAt,omitzero"`
	// Stage is the last reported installerapi.Stage.
	Stage        string `json:"stage"`
	BytesWritten int64  `json:"bytesWritten"`
	BytesTotal   int64  `json:"bytesTotal"`
	// Error is the installer's error text; empty if there is no error.
	Error string `json:"error,omitempty"`
	// Waiting is why the installation makes no progress at the moment; empty if it does.
	Waiting string `json:"waiting,omitempty"`
	// Warnings are problems of a completed installation, at most
	// installerapi.MaxWarnings.
	Warnings []string `json:"warnings,omitempty"`
}

// CloudInitState summarizes the events that cloud-init's webhook handler posted.
type CloudInitState struct {
	UpdatedAt time.Time `json:"updatedAt"`
	// EndedAt is when the last stage of the current boot ended; zero while
	// cloud-init runs.
	EndedAt time.Time `json:"endedAt,omitzero"`
	// Stage is the last reported stage: "init-network", "modules-config" or
	// "modules-final".
	Stage string `json:"stage"`
	// Module is the module that the stage runs, such as "config-scripts_user";
	// empty between modules.
	Module string `json:"module,omitempty"`
	// Failures of this installation, at most 8. A failure of a module that runs
	// once per installation is kept, whatever later boots report.
	Failures []CloudInitFailure `json:"failures,omitempty"`
}

// CloudInitFailure is one stage or module that ended with the result FAIL.
type CloudInitFailure struct {
	Stage string `json:"stage"`
	// Module is empty when the stage failed as a whole.
	Module string `json:"module,omitempty"`
	// Description is cloud-init's text.
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

// SSHState is the last result of probing the machine's SSH port. netbootd probes
// while Machine.PowerOn is set and the machine has phoned home in this attempt or
// Machine.Boot is BootDisk.
type SSHState struct {
	// PowerOn is the Machine.PowerOn that was probed.
	PowerOn string `json:"powerOn,omitempty"`
	// Up is true when the port sent an SSH identification string (RFC 4253,
	// section 4.2) at CheckedAt. It turns false when several probes in a row
	// fail.
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

// UnknownClient is an undeclared client, which gets no boot file.
type UnknownClient struct {
	MAC          string     `json:"mac"`
	Address      netip.Addr `json:"address,omitzero"`
	Architecture string     `json:"architecture,omitempty"`
	// FirstSeen is when the client was discovered.
	FirstSeen time.Time `json:"firstSeen"`
	// LastSeen is the minute of its last request.
	LastSeen time.Time `json:"lastSeen"`
}
