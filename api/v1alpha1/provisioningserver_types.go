// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkMode is the implementation of the lab network.
// +kubebuilder:validation:Enum=Userspace;Bridge;VMNetHost;VMNetShared
type NetworkMode string

const (
	// NetworkUserspace is a learning switch in the manager. It requires no
	// privileges.
	NetworkUserspace NetworkMode = "Userspace"
	// NetworkBridge is a Linux bridge with tap devices. It requires
	// CAP_NET_ADMIN.
	NetworkBridge NetworkMode = "Bridge"
	// NetworkVMNetHost is macOS vmnet in host mode.
	NetworkVMNetHost NetworkMode = "VMNetHost"
	// NetworkVMNetShared is macOS vmnet in shared mode.
	NetworkVMNetShared NetworkMode = "VMNetShared"
)

// GatewayMode determines whether targets can reach other networks.
// +kubebuilder:validation:Enum=NAT;None
type GatewayMode string

const (
	// GatewayNAT lets targets reach other networks through NAT on the server.
	GatewayNAT GatewayMode = "NAT"
	// GatewayNone confines targets to the lab network.
	GatewayNone GatewayMode = "None"
)

// ServerMachine is the virtual machine of a provisioning server.
type ServerMachine struct {
	Machine `json:",inline"`
	// Architecture of the machine.
	// +kubebuilder:default=aarch64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="architecture cannot be changed; create another ProvisioningServer"
	Architecture Architecture `json:"architecture,omitempty"`
	// DiskSize is the size of the machine's disk, which also stores the content
	// served to targets; at least 1Gi.
	// +kubebuilder:default="16Gi"
	DiskSize resource.Quantity `json:"diskSize,omitzero"`
	// Image is the cloud image from which the machine boots; it must contain
	// cloud-init. A change of the image or of diskSize takes effect when the machine is
	// restarted, with a new disk.
	Image ImageSource `json:"image"`
}

// LabNetwork is the network between the server and its targets.
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || cidr(self.cidr).ip() == cidr(self.cidr).masked().ip()",message="cidr must be a network address: its host bits must be zero"
// +kubebuilder:validation:XValidation:rule="!has(self.cidr) || cidr(self.cidr).prefixLength() <= 29",message="cidr must have room for a server and targets: use a prefix of /29 or wider"
// +kubebuilder:validation:XValidation:rule="!has(self.address) || !has(self.cidr) || cidr(self.cidr).containsIP(self.address)",message="address must be within cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.dhcp) || !has(self.cidr) || !has(self.dhcp.rangeStart) || cidr(self.cidr).containsIP(self.dhcp.rangeStart)",message="dhcp.rangeStart must be within cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.dhcp) || !has(self.cidr) || !has(self.dhcp.rangeEnd) || cidr(self.cidr).containsIP(self.dhcp.rangeEnd)",message="dhcp.rangeEnd must be within cidr"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Bridge' || has(self.bridge)",message="bridge is required when mode is Bridge"
// +kubebuilder:validation:XValidation:rule="!has(self.impairment) || !has(self.mode) || self.mode == 'Userspace'",message="impairment requires mode Userspace"
// +kubebuilder:validation:XValidation:rule="!has(self.uncheckedFrames) || size(self.uncheckedFrames) == 0 || !has(self.mode) || self.mode == 'Userspace'",message="uncheckedFrames requires mode Userspace, which is the only one that checks frames"
// +kubebuilder:validation:XValidation:rule="!has(self.uncheckedFrames) || !('MACs' in self.uncheckedFrames) || 'Addresses' in self.uncheckedFrames",message="uncheckedFrames with MACs requires Addresses as well: machines with other MAC addresses have other IP addresses"
// +kubebuilder:validation:XValidation:rule="has(self.address) == has(oldSelf.address)",message="address cannot be changed; create another ProvisioningServer"
// +kubebuilder:validation:XValidation:rule="has(self.mtu) == has(oldSelf.mtu)",message="mtu cannot be changed; create another ProvisioningServer"
// +kubebuilder:validation:XValidation:rule="has(self.bridge) == has(oldSelf.bridge)",message="bridge cannot be changed; create another ProvisioningServer"
type LabNetwork struct {
	// Mode is the implementation of the network.
	// +kubebuilder:default=Userspace
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="mode cannot be changed; create another ProvisioningServer"
	Mode NetworkMode `json:"mode,omitempty"`
	// CIDR is the IPv4 address range of the network. It has fixed parts: targets
	// without a declared address get one of the first three eighths, from the tenth
	// address; the next three eighths are kept for the targets' BMCs; the upper
	// quarter is the pool of unknown machines, unless dhcp sets another. In networks
	// with fewer than 1024 addresses the first two parts are one, which targets use.
	// The default has 1526 addresses for targets, 1536 for BMCs and 1023 in the pool.
	//
	// The network can be widened at any time: to one with the same first address and
	// a shorter prefix. No machine is restarted. Installed systems keep the prefix
	// with which they were installed until they are installed again; the condition
	// UpToDate of their targets reports this.
	// +kubebuilder:default="10.88.0.0/20"
	// +kubebuilder:validation:MaxLength=18
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self).ip().family() == 4",message="cidr must be an IPv4 network such as 10.88.0.0/20"
	CIDR string `json:"cidr,omitempty"`
	// Address is the static address of the server. Default: the first address of
	// the network.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4",message="address must be an IPv4 address"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="address cannot be changed; create another ProvisioningServer"
	Address string `json:"address,omitempty"`
	// DHCP configures the address pool for unknown machines. Targets always have
	// a reservation.
	// +optional
	DHCP *DHCPSpec `json:"dhcp,omitempty"`
	// MTU that operating systems receive. Default: 9000 in mode Userspace on
	// Linux, otherwise 1500.
	// +optional
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=9000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="mtu cannot be changed; create another ProvisioningServer"
	MTU int32 `json:"mtu,omitempty"`
	// Gateway determines whether targets can reach other networks through the
	// server.
	// +kubebuilder:default=NAT
	Gateway GatewayMode `json:"gateway,omitempty"`
	// DNS servers that targets receive. Default: the server, which knows the names of
	// the lab's machines. For other names it asks these or, with gateway NAT, those of
	// the uplink.
	// +optional
	// +kubebuilder:validation:MaxItems=3
	DNS []IPv4 `json:"dns,omitempty"`
	// Domain is the DNS domain of the server and its targets, and that which targets
	// search.
	// +kubebuilder:default="lab.internal"
	// +kubebuilder:validation:MaxLength=200
	// +kubebuilder:validation:XValidation:rule="self.split('.').all(l, l.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'))",message="domain must be a DNS name in lower case, such as lab.internal: labels of letters, digits and dashes with one dot between them"
	Domain string `json:"domain,omitempty"`
	// Bridge is the name of the Linux bridge; required in mode Bridge.
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_.-]{1,15}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="bridge cannot be changed; create another ProvisioningServer"
	Bridge string `json:"bridge,omitempty"`
	// UncheckedFrames lists the checks of targets' frames that are switched off; see
	// FrameCheck. By default all are made. It can be changed at any time and takes effect
	// immediately. The MAC and IP addresses of other targets and of the server are refused
	// in any case. Mode Userspace only.
	// +optional
	// +kubebuilder:validation:MaxItems=5
	// +listType=set
	UncheckedFrames []FrameCheck `json:"uncheckedFrames,omitempty"`
	// Impairment adds loss and delay to the network. Mode Userspace only.
	// +optional
	Impairment *Impairment `json:"impairment,omitempty"`
}

// IPv4 is an IPv4 address in dotted-decimal notation.
// +kubebuilder:validation:MaxLength=15
// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4",message="must be an IPv4 address"
type IPv4 string

// DHCPSpec is the address pool for unknown machines.
// +kubebuilder:validation:XValidation:rule="has(self.rangeStart) == has(self.rangeEnd)",message="set both rangeStart and rangeEnd, or neither"
type DHCPSpec struct {
	// RangeStart is the first address of the pool. Default: the upper quarter
	// of the network, which moves when the network is widened.
	// +optional
	RangeStart IPv4 `json:"rangeStart,omitempty"`
	// RangeEnd is the last address of the pool. Required with rangeStart.
	// +optional
	RangeEnd IPv4 `json:"rangeEnd,omitempty"`
	// LeaseTime is the duration of a lease, from 1m to 168h.
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('168h')",message="leaseTime must be between 1m and 168h"
	LeaseTime metav1.Duration `json:"leaseTime,omitzero"`
}

// ProvisioningServerSpec is the desired state of a ProvisioningServer.
type ProvisioningServerSpec struct {
	// Machine describes the virtual machine.
	Machine ServerMachine `json:"machine"`
	// Network is the lab network between the server and its targets.
	// +kubebuilder:default={}
	Network LabNetwork `json:"network,omitempty"`
	// IPXE lists the iPXE programs for targets, by architecture. Default: those
	// of the lab's image folder or of the host's packages.
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=map
	// +listMapKey=architecture
	IPXE []IPXEProgram `json:"ipxe,omitempty"`
	// SSHAuthorizedKeys are the public keys that may log in to the server and its
	// targets.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=8192
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys,omitempty"`
}

// IPXEProgram is an iPXE program for one architecture.
type IPXEProgram struct {
	// Architecture of the clients that receive this program.
	Architecture Architecture `json:"architecture"`
	// Source of the program.
	Source ArtifactSource `json:"source"`
}

// ServerPhase summarizes the state of a server.
type ServerPhase string

const (
	// ServerPending waits for its artifacts, or was not observed yet by the manager
	// that has just started.
	ServerPending ServerPhase = "Pending"
	// ServerBooting runs its machine, but netbootd does not respond yet.
	ServerBooting ServerPhase = "Booting"
	// ServerReady serves DHCP, TFTP, HTTP, DNS and NTP.
	ServerReady ServerPhase = "Ready"
	// ServerDegraded was Ready before and lacks a service now.
	ServerDegraded ServerPhase = "Degraded"
	// ServerFailed requires a change by the user.
	ServerFailed ServerPhase = "Failed"
	// ServerStopped is powered off because the lab was stopped.
	ServerStopped ServerPhase = "Stopped"
	// ServerDeleting is being deleted.
	ServerDeleting ServerPhase = "Deleting"
)

// Conditions of a ProvisioningServer besides Ready and Valid.
const (
	// ConditionImageReady reports whether the machine's image and the iPXE
	// programs are available and verified.
	ConditionImageReady = "ImageReady"
	// ConditionMachineRunning reports whether the virtual machine is running. A
	// BareMetalTarget has it too.
	ConditionMachineRunning = "MachineRunning"
	// ConditionAgentConnected reports whether netbootd responds to the manager.
	ConditionAgentConnected = "AgentConnected"
	// ConditionContentReady reports whether netbootd has the current
	// configuration and content.
	ConditionContentReady = "ContentReady"
	// ConditionDHCPReady reports whether DHCP is served.
	ConditionDHCPReady = "DHCPReady"
	// ConditionTFTPReady reports whether TFTP is served.
	ConditionTFTPReady = "TFTPReady"
	// ConditionHTTPReady reports whether HTTP is served.
	ConditionHTTPReady = "HTTPReady"
	// ConditionDNSReady reports whether the names of the lab are served.
	ConditionDNSReady = "DNSReady"
	// ConditionNTPReady reports whether the time is served.
	ConditionNTPReady = "NTPReady"
)

// Endpoints are the addresses of a server's services.
type Endpoints struct {
	// Agent is the address at which the manager reaches netbootd.
	Agent string `json:"agent,omitempty"`
	// HTTP is the address from which targets fetch files, on the lab network.
	HTTP string `json:"http,omitempty"`
	// TFTP is the address from which firmware fetches its boot program.
	TFTP string `json:"tftp,omitempty"`
	// DHCP is the address of the DHCP server.
	DHCP string `json:"dhcp,omitempty"`
	// DNS is the address of the name server, on the lab network.
	DNS string `json:"dns,omitempty"`
	// NTP is the address of the time server, on the lab network.
	NTP string `json:"ntp,omitempty"`
}

// Lease is an active DHCP lease.
type Lease struct {
	// MACAddress that holds the lease.
	MACAddress string `json:"macAddress"`
	// Address that is leased.
	Address string `json:"address"`
	// Hostname that the client sent or was assigned.
	Hostname string `json:"hostname,omitempty"`
	// Target is the name of the BareMetalTarget; empty for an unknown machine.
	Target string `json:"target,omitempty"`
}

// UnknownClient is a machine on the lab network without a BareMetalTarget. It
// receives an address from the pool, but no boot file.
type UnknownClient struct {
	// MACAddress of the client.
	MACAddress string `json:"macAddress"`
	// Address assigned to the client, if any.
	Address string `json:"address,omitempty"`
	// Architecture that the client reported, if it requested a network boot.
	Architecture string `json:"architecture,omitempty"`
}

// ProvisioningServerStatus is the observed state of a ProvisioningServer.
type ProvisioningServerStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase summarizes the conditions.
	Phase ServerPhase `json:"phase,omitempty"`
	// Message describes what the server is doing or waiting for.
	Message string `json:"message,omitempty"`
	// Conditions of the server.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Address of the server on the lab network.
	Address string `json:"address,omitempty"`
	// Accelerator that runs the machine: kvm, hvf or, for software emulation, tcg.
	Accelerator string `json:"accelerator,omitempty"`
	// PoweredOnAt identifies the power-on of the machine that phase and
	// conditions describe: the time at which its QEMU process started. It is
	// absent while the machine is off.
	PoweredOnAt *metav1.MicroTime `json:"poweredOnAt,omitempty"`
	// PendingChanges lists the fields whose change has no effect yet. Values are
	// compared, not texts: 1Gi and 1024Mi are equal.
	// +listType=atomic
	PendingChanges []PendingChange `json:"pendingChanges,omitempty"`
	// Endpoints of the services.
	Endpoints Endpoints `json:"endpoints,omitempty"`
	// Consoles of the machine.
	Consoles Consoles `json:"consoles,omitempty"`
	// Leases lists the active leases, at most 256.
	// +listType=atomic
	Leases []Lease `json:"leases,omitempty"`
	// UnknownClients lists the unknown clients seen recently, at most 16.
	// +listType=atomic
	UnknownClients []UnknownClient `json:"unknownClients,omitempty"`
	// Network is the observed state of the lab network.
	Network LabNetworkStatus `json:"network,omitempty"`
	// NetbootdVersion identifies the netbootd program that runs on the server:
	// "sha256:" and the first 12 hexadecimal digits of its SHA-256 digest, as
	// "netbootd --version" prints it. It is the last observed value and is empty
	// until netbootd has connected.
	NetbootdVersion string `json:"netbootdVersion,omitempty"`
	// Targets is the number of targets that use this server.
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
// +kubebuilder:validation:XValidation:rule="self.spec.network.cidr == oldSelf.spec.network.cidr || (cidr(self.spec.network.cidr).ip() == cidr(oldSelf.spec.network.cidr).ip() && cidr(self.spec.network.cidr).prefixLength() < cidr(oldSelf.spec.network.cidr).prefixLength()) || (has(oldSelf.status) && has(oldSelf.status.network) && has(oldSelf.status.network.cidr) && self.spec.network.cidr == oldSelf.status.network.cidr)",message="cidr can only be widened: keep the first address and use a shorter prefix, or create another ProvisioningServer",fieldPath=".spec.network.cidr"
type ProvisioningServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the desired state of the server.
	Spec ProvisioningServerSpec `json:"spec"`
	// Status is the observed state of the server.
	Status ProvisioningServerStatus `json:"status,omitempty"`
}

// ProvisioningServerList is a list of ProvisioningServers.
// +kubebuilder:object:root=true
type ProvisioningServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ProvisioningServer `json:"items"`
}
