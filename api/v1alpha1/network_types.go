// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Impairment makes the lab network worse on purpose, in each direction, to see
// how machines cope. It can be changed at any time and takes effect at once.
// +kubebuilder:validation:XValidation:rule="!has(self.jitter) || (has(self.delay) && duration(self.jitter) <= duration(self.delay))",message="jitter must not exceed delay"
type Impairment struct {
	// LossPercent of the frames are lost: a number, or one with decimals as text
	// such as "0.5".
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100([.]0+)?|[0-9]{1,2}([.][0-9]{1,4})?)$`
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (int(self) >= 0 && int(self) <= 100)",message="lossPercent must be between 0 and 100, such as 5 or \"0.5\""
	LossPercent *intstr.IntOrString `json:"lossPercent,omitempty"`
	// Delay of each frame on its way, at most 10s: a question and its answer
	// take twice as long. Frames stay in order.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('10s')",message="delay must be between 0s and 10s"
	Delay *metav1.Duration `json:"delay,omitempty"`
	// Jitter is how much longer or shorter than delay it may take, by chance.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="jitter must not be negative"
	Jitter *metav1.Duration `json:"jitter,omitempty"`
}

// LabNetworkStatus is what was observed of the lab network.
type LabNetworkStatus struct {
	// Impairment in force, for people; empty when there is none.
	Impairment string `json:"impairment,omitempty"`
	// RefusedFrames of machines that took another's address or played the
	// network's server, in mode Userspace, at most 32 machines shown. Counted
	// since the manager started or the machine was plugged in.
	// +listType=atomic
	RefusedFrames []RefusedFrames `json:"refusedFrames,omitempty"`
	// RefusedRequests that netbootd turned away since it started, by reason.
	RefusedRequests map[string]int64 `json:"refusedRequests,omitempty"`
	// CountedAt is when the counters were written last: every half minute at
	// most while they grow.
	// +optional
	CountedAt *metav1.Time `json:"countedAt,omitempty"`
}

// RefusedFrames counts one machine's frames that the network did not carry.
type RefusedFrames struct {
	// Target is the machine; empty for the server itself.
	Target string `json:"target,omitempty"`
	// ForeignMAC counts frames from an address that is not the machine's.
	ForeignMAC int64 `json:"foreignMAC,omitempty"`
	// DHCPServer counts DHCP replies, which only the server may send.
	DHCPServer int64 `json:"dhcpServer,omitempty"`
	// RouterAdvertisement counts IPv6 router advertisements and redirects,
	// which only the server may send.
	RouterAdvertisement int64 `json:"routerAdvertisement,omitempty"`
}
