// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkMode is how the lab network is carried.
// +kubebuilder:validation:Enum=Userspace;Bridge;VMNetHost;VMNetShared
type NetworkMode string

const (
	// NetworkUserspace: a learning switch in the manager; needs no rights.
	NetworkUserspace NetworkMode = "Userspace"
	// NetworkBridge: a Linux bridge and taps; needs CAP_NET_ADMIN.
	NetworkBridge NetworkMode = "Bridge"
	// NetworkVMNetHost: macOS vmnet, host only.
	NetworkVMNetHost NetworkMode = "VMNetHost"
	// NetworkVMNetShared: macOS vmnet, shared with the host's network.
	NetworkVMNetShared NetworkMode = "VMNetShared"
)

// GatewayMode is whether targets reach beyond the lab network.
// +kubebuilder:validation:Enum=NAT;None
type GatewayMode string

const (
	GatewayNAT  GatewayMode = "NAT"
	GatewayNone GatewayMode = "None"
)

// ServerMachine is the provisioning virtual machine.
type ServerMachine struct {
	Machine `json:",inline"`
	// Architecture of the machine.
	// +kubebuilder:default=aarch64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; make another ProvisioningServer"
	Architecture Architecture `json:"architecture,omitempty"`
	// DiskSize of the machine's disk, which also keeps what targets download.
	// +kubebuilder:default="16Gi"
	DiskSize resource.Quantity `json:"diskSize,omitzero"`
	// Image is the cloud image the machine boots: one with cloud-init. It counts
	// when the machine's disk is made, and not afterwards.
	Image ImageSource `json:"image"`
}

// LabNetwork is the network between the server and its targets.
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || cidr(self.cidr).ip() == cidr(self.cidr).masked().ip()",message="cidr must name a network: its host bits must be zero"
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || cidr(self.cidr).prefixLength() <= 29",message="cidr must have room for a server and targets: a prefix of /29 or wider"
// +kubebuilder:validation:XValidation:rule="!has(self.address) || !has(self.cidr) || cidr(self.cidr).containsIP(self.address)",message="address must lie in cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.dhcp) || !has(self.cidr) || !has(self.dhcp.rangeStart) || cidr(self.cidr).containsIP(self.dhcp.rangeStart)",message="dhcp.rangeStart must lie in cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.dhcp) || !has(self.cidr) || !has(self.dhcp.rangeEnd) || cidr(self.cidr).containsIP(self.dhcp.rangeEnd)",message="dhcp.rangeEnd must lie in cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Bridge' || has(self.bridge)",message="mode Bridge needs the name of the bridge"
// +kubebuilder:validation:XValidation:rule="!has(self.impairment) || !has(self.mode) || self.mode == 'Userspace'",message="impairment needs mode Userspace: only the manager's own switch can do it"
// +kubebuilder:validation:XValidation:rule="has(self.address) == has(oldSelf.address)",message="address cannot be changed; make another ProvisioningServer"
// +kubebuilder:validation:XValidation:rule="has(self.mtu) == has(oldSelf.mtu)",message="mtu cannot be changed; make another ProvisioningServer"
type LabNetwork struct {
	// Mode is how the network is carried.
	// +kubebuilder:default=Userspace
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="mode cannot be changed; make another ProvisioningServer"
	Mode NetworkMode `json:"mode,omitempty"`
	// CIDR of the network (IPv4).
	// +kubebuilder:default="10.88.0.0/24"
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4",message="cidr must be an IPv4 network such as 10.88.0.0/24"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cidr cannot be changed; make another ProvisioningServer"
	CIDR string `json:"cidr,omitempty"`
	// Address of the server, static. Default: the first of the network.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4",message="address must be an IPv4 address"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="address cannot be changed; make another ProvisioningServer"
	Address string `json:"address,omitempty"`
	// DHCP pool for machines that nobody declared. Declared targets always
	// have a reservation.
	// +optional
	DHCP *DHCPSpec `json:"dhcp,omitempty"`
	// MTU handed to operating systems. Default: 9000 in mode Userspace on
	// Linux, else 1500.
	// +optional
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=9000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="mtu cannot be changed; make another ProvisioningServer"
	MTU int32 `json:"mtu,omitempty"`
	// Gateway lets targets reach beyond the lab network through the server.
	// +kubebuilder:default=NAT
	Gateway GatewayMode `json:"gateway,omitempty"`
	// DNS servers handed to targets. Default with gateway NAT: the uplink's.
	// +optional
	// +kubebuilder:validation:MaxItems=3
	DNS []IPv4 `json:"dns,omitempty"`
	// Domain handed to targets.
	// +kubebuilder:default="lab.internal"
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Domain string `json:"domain,omitempty"`
	// Bridge names the Linux bridge of mode Bridge.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_.-]{1,15}$`
	Bridge string `json:"bridge,omitempty"`
	// Impairment makes the network worse on purpose; mode Userspace only.
	// +optional
	Impairment *Impairment `json:"impairment,omitempty"`
}

// IPv4 is an IPv4 address in dotted form.
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4",message="must be an IPv4 address"
type IPv4 string

// DHCPSpec is the pool for unknown machines.
// +kubebuilder:validation:XValidation:rule="has(self.rangeStart) == has(self.rangeEnd)",message="give both rangeStart and rangeEnd or neither"
type DHCPSpec struct {
	// RangeStart is the first address of the pool. Default: the upper quarter
	// of the network.
	// +optional
	RangeStart IPv4 `json:"rangeStart,omitempty"`
	// RangeEnd is the last address of the pool.
	// +optional
	RangeEnd IPv4 `json:"rangeEnd,omitempty"`
	// LeaseTime, at least 1m.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('168h')",message="leaseTime must be between 1m and 168h"
	LeaseTime metav1.Duration `json:"leaseTime,omitzero"`
}

// ProvisioningServerSpec declares a provisioning server.
type ProvisioningServerSpec struct {
	// Machine is the virtual machine that serves.
	Machine ServerMachine `json:"machine"`
	// Network between the server and its targets.
	// +kubebuilder:default={}
	Network LabNetwork `json:"network,omitempty"`
	// IPXE programs handed to targets, by architecture. Default: what the
	// lab's image folder or the host's packages have.
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=map
	// +listMapKey=architecture
	IPXE []IPXEProgram `json:"ipxe,omitempty"`
	// SSHAuthorizedKeys may log in to the server and to its targets.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=8192
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys,omitempty"`
}

// IPXEProgram is iPXE built for one architecture.
type IPXEProgram struct {
	// Architecture of the clients that get this program.
	Architecture Architecture `json:"architecture"`
	// Source of the program.
	Source ArtifactSource `json:"source"`
}

// ServerPhase sums up a server.
type ServerPhase string

const (
	ServerPending  ServerPhase = "Pending"  // artifacts are fetched
	ServerBooting  ServerPhase = "Booting"  // machine runs, agent not there yet
	ServerReady    ServerPhase = "Ready"    // every service answers
	ServerDegraded ServerPhase = "Degraded" // was ready and something is missing
	ServerFailed   ServerPhase = "Failed"   // needs a change by the user
	ServerDeleting ServerPhase = "Deleting"
)

// Conditions of a ProvisioningServer besides Ready and Valid.
const (
	ConditionImageReady     = "ImageReady"
	ConditionMachineRunning = "MachineRunning"
	ConditionAgentConnected = "AgentConnected"
	ConditionContentReady   = "ContentReady"
	ConditionDHCPReady      = "DHCPReady"
	ConditionTFTPReady      = "TFTPReady"
	ConditionHTTPReady      = "HTTPReady"
)

// Reasons of a ProvisioningServer.
const (
	ReasonConnected    = "Connected"
	ReasonConnecting   = "Connecting"
	ReasonDisconnected = "Disconnected"
	// ReasonUntrusted: manager and netbootd refuse each other's certificates.
	ReasonUntrusted = "Untrusted"
	// ReasonAgentSilent: netbootd is there and hangs.
	ReasonAgentSilent = "AgentSilent"
	// ReasonFramesRefused: a machine took another's address or played the
	// network's server.
	ReasonFramesRefused = "FramesRefused"
	ReasonServing       = "Serving"
	ReasonNotServing    = "NotServing"
	ReasonUploading     = "Uploading"
	ReasonInUse         = "InUse"
	ReasonNoIPXEProgram = "NoIPXEProgram"
)

// Endpoints of a server.
type Endpoints struct {
	// Agent is where the manager reaches netbootd.
	Agent string `json:"agent,omitempty"`
	// HTTP is where targets fetch files, on the lab network.
	HTTP string `json:"http,omitempty"`
	// TFTP is where firmware fetches its boot program.
	TFTP string `json:"tftp,omitempty"`
	// DHCP is where targets get their addresses.
	DHCP string `json:"dhcp,omitempty"`
}

// Lease is one DHCP lease in force.
type Lease struct {
	// MACAddress that holds the lease.
	MACAddress string `json:"macAddress"`
	// Address that is leased.
	Address string `json:"address"`
	// Hostname that the client gave or was given.
	Hostname string `json:"hostname,omitempty"`
	// Target is the declared target; empty for an unknown machine.
	Target string `json:"target,omitempty"`
}

// UnknownClient is a machine on the lab network that nobody declared. It gets
// an address from the pool and no boot file.
type UnknownClient struct {
	// MACAddress of the client.
	MACAddress string `json:"macAddress"`
	// Address it was given, if any.
	Address string `json:"address,omitempty"`
	// Architecture it told, if it asked for a network boot.
	Architecture string `json:"architecture,omitempty"`
}

// ProvisioningServerStatus is what was observed of a server.
type ProvisioningServerStatus struct {
	// ObservedGeneration of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase sums up the conditions.
	Phase ServerPhase `json:"phase,omitempty"`
	// Message says what the server is doing or waiting for.
	Message string `json:"message,omitempty"`
	// Conditions of the server.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Address of the server on the lab network.
	Address string `json:"address,omitempty"`
	// Accelerator that runs the machine: kvm, hvf or tcg.
	Accelerator string `json:"accelerator,omitempty"`
	// Endpoints of the services.
	Endpoints Endpoints `json:"endpoints,omitempty"`
	// Consoles of the machine.
	Consoles Consoles `json:"consoles,omitempty"`
	// Leases in force, at most 256 shown.
	// +listType=atomic
	Leases []Lease `json:"leases,omitempty"`
	// UnknownClients seen lately, at most 16 shown.
	// +listType=atomic
	UnknownClients []UnknownClient `json:"unknownClients,omitempty"`
	// Network is what was observed of the lab network.
	Network LabNetworkStatus `json:"network,omitempty"`
	// Targets that use this server.
	Targets int32 `json:"targets,omitempty"`
}

// ProvisioningServer is a virtual machine that offers DHCP, TFTP, HTTP, iPXE
// and cloud-init data to targets on a lab network.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=psrv,categories=pxelab
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network.cidr`
// +kubebuilder:printcolumn:name="Targets",type=integer,JSONPath=`.status.targets`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="name must be at most 63 characters"
type ProvisioningServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ProvisioningServerSpec   `json:"spec"`
	Status ProvisioningServerStatus `json:"status,omitempty"`
}

// ProvisioningServerList is a list of servers.
// +kubebuilder:object:root=true
type ProvisioningServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ProvisioningServer `json:"items"`
}
