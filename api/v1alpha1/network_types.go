// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Impairment adds loss and delay to the lab network, in each direction, to test
// how machines cope. It can be changed at any time and takes effect immediately.
// +kubebuilder:validation:XValidation:rule="!has(self.jitter) || (has(self.delay) && duration(self.jitter) <= duration(self.delay))",message="jitter must not exceed delay"
type Impairment struct {
	// LossPercent is the percentage of frames to drop: an integer, or a decimal
	// number as a string, such as "0.5".
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100([.]0+)?|[0-9]{1,2}([.][0-9]{1,4})?)$`
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (int(self) >= 0 && int(self) <= 100)",message="lossPercent must be between 0 and 100, such as 5 or \"0.5\""
	LossPercent *intstr.IntOrString `json:"lossPercent,omitempty"`
	// Delay added to each frame, at most 10s. A round trip takes twice as long.
	// Frames are not reordered.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('10s')",message="delay must be between 0s and 10s"
	Delay *metav1.Duration `json:"delay,omitempty"`
	// Jitter is the maximum random deviation from delay, in either direction.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="jitter must not be negative"
	Jitter *metav1.Duration `json:"jitter,omitempty"`
}

// FrameCheck is a check that the lab network makes of the frames of targets.
// +kubebuilder:validation:Enum=MACs;Addresses;DHCPServers;Routers;Rates
type FrameCheck string

const (
	// CheckMACs refuses frames from a MAC address other than the target's. Machines
	// nested in a target and bridged to the lab network have others.
	CheckMACs FrameCheck = "MACs"
	// CheckAddresses refuses packets, ARP and IPv6 neighbor discovery from an IPv4
	// address that is not reserved for the target, or from an IPv6 address that another
	// machine used first. Virtual IP addresses and routers use others.
	CheckAddresses FrameCheck = "Addresses"
	// CheckDHCPServers refuses DHCP replies and relay agents. Without it, targets
	// receive the DHCP requests of the others.
	CheckDHCPServers FrameCheck = "DHCPServers"
	// CheckRouters refuses IPv6 router advertisements and redirects. Without it, targets
	// receive the router solicitations of the others.
	CheckRouters FrameCheck = "Routers"
	// CheckRates drops frames to all machines, ARP, neighbor discovery and DHCP requests
	// beyond a rate.
	CheckRates FrameCheck = "Rates"
)

// LabNetworkStatus is the observed state of the lab network.
type LabNetworkStatus struct {
	// CIDR is the network that the lab uses: spec.network.cidr, once it was found not
	// to overlap the network of another server. While a wider network is refused,
	// spec.network.cidr can be set back to this one.
	// +optional
	// +kubebuilder:validation:MaxLength=18
	CIDR string `json:"cidr,omitempty"`
	// Impairment is a human-readable summary of the impairment in effect; empty
	// if there is none.
	Impairment string `json:"impairment,omitempty"`
	// RefusedFrames counts the frames that the network dropped, per machine: at
	// most the 32 machines with the highest counts, in mode Userspace only.
	// Counting starts when the manager starts or the machine is attached.
	// +listType=atomic
	RefusedFrames []RefusedFrames `json:"refusedFrames,omitempty"`
	// RefusedRequests counts the requests that netbootd rejected since it
	// started, by reason; at most 32 reasons.
	RefusedRequests map[string]int64 `json:"refusedRequests,omitempty"`
	// CountedAt is the time of the last update of the counters. While they
	// increase, they are updated at most every 30 seconds.
	// +optional
	CountedAt *metav1.Time `json:"countedAt,omitempty"`
}

// RefusedFrames counts the dropped frames of one machine.
type RefusedFrames struct {
	// Target is the name of the BareMetalTarget; empty for the server itself.
	Target string `json:"target,omitempty"`
	// ForeignMAC counts frames from a MAC address other than the machine's.
	ForeignMAC int64 `json:"foreignMAC,omitempty"`
	// DHCPServer counts DHCP server replies, which only the server may send.
	DHCPServer int64 `json:"dhcpServer,omitempty"`
	// RouterAdvertisement counts IPv6 router advertisements and redirects,
	// which only the server may send.
	RouterAdvertisement int64 `json:"routerAdvertisement,omitempty"`
	// ForeignAddress counts packets, ARP and IPv6 neighbor discovery with addresses
	// other than the machine's, or with addresses that cannot be read.
	ForeignAddress int64 `json:"foreignAddress,omitempty"`
	// DHCPClient counts DHCP requests for another machine or of a relay agent.
	DHCPClient int64 `json:"dhcpClient,omitempty"`
	// Excess counts frames to all machines, ARP, neighbor discovery and DHCP requests
	// beyond the rates of a machine.
	Excess int64 `json:"excess,omitempty"`
}
