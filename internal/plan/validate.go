// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// ValidCondition returns the condition Valid; err is nil or wraps an *InvalidError.
func ValidCondition(err error) Condition {
	if err == nil {
		return condition(v1alpha1.ConditionValid, true, v1alpha1.ReasonValid, "the spec is valid")
	}
	reason := v1alpha1.ReasonInvalid
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		reason = invalid.Reason
	}
	return condition(v1alpha1.ConditionValid, false, reason, err.Error())
}

// CheckBridge checks that the bridge of a network is one that machines may be attached to.
// The error is an *InvalidError.
func CheckBridge(n Network, allowed []string) error {
	if n.Mode != v1alpha1.NetworkBridge || slices.Contains(allowed, n.Bridge) {
		return nil
	}
	return invalid(v1alpha1.ReasonBridgeNotAllowed,
		"spec.network.bridge %s is not allowed by the manager; start it with --allow-bridge=%s", n.Bridge, n.Bridge)
}

// CheckServer checks what the schema of a server cannot: the size of its disk, and
// that its network n overlaps none of another server on the same wire. A network that is used is kept
// before one that is declared, and that of an older server before that of a younger one:
// a network that is widened must not take the addresses of another lab. The error is an
// *InvalidError.
func CheckServer(s *v1alpha1.ProvisioningServer, n Network, servers []v1alpha1.ProvisioningServer) error {
	rival := ""
	for i := range servers {
		o := &servers[i]
		name := o.Namespace + "/" + o.Name
		if o.UID != s.UID && shareWire(s.Spec.Network, o.Spec.Network) && yields(s, n.Prefix, o) && (rival == "" || name < rival) {
			rival = name
		}
	}
	if rival != "" {
		return invalid(v1alpha1.ReasonAddressConflict,
			"spec.network.cidr %s overlaps the network of server %s on the same wire; choose another", n.Prefix, rival)
	}
	if s.Spec.Machine.DiskSize.Value() < 1<<30 {
		return invalid(v1alpha1.ReasonInvalid, "spec.machine.diskSize must be at least 1Gi")
	}
	return nil
}

// shareWire reports whether the machines of two networks can reach each other: on one
// bridge, or on the network that macOS shares among all machines.
func shareWire(a, b v1alpha1.LabNetwork) bool {
	if a.Mode != b.Mode {
		return false
	}
	return a.Mode == v1alpha1.NetworkVMNetShared || a.Mode == v1alpha1.NetworkBridge && a.Bridge == b.Bridge
}

// yields reports whether a server may not use a network because of another server.
func yields(s *v1alpha1.ProvisioningServer, n netip.Prefix, o *v1alpha1.ProvisioningServer) bool {
	overlaps := func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Overlaps(n)
	}
	used := s.Status.Network.CIDR == n.String()
	switch {
	case overlaps(o.Status.Network.CIDR):
		return !used || Older(o, s)
	case overlaps(o.Spec.Network.CIDR):
		return !used && Older(o, s)
	}
	return false
}

// Older reports whether a was created before b. The UIDs order two objects that were
// created in the same second.
func Older(a, b metav1.Object) bool {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if at.Equal(&bt) {
		return a.GetUID() < b.GetUID()
	}
	return at.Before(&bt)
}

// CheckBoot checks that a profile has something to boot. The schema demands it, but an
// object that was stored before the schema changed does not follow it. The result is
// nil if it does.
func CheckBoot(p *v1alpha1.BootProfile) error {
	if i := p.Spec.Image; i != nil && i.Kernel != nil && i.Initrd != nil {
		return nil
	}
	return invalid(v1alpha1.ReasonInvalid, "spec.image, with kernel and initrd, is missing; apply the profile again")
}

// generationNote returns a note that a target's installGeneration has no effect; "" if it has.
func generationNote(t *v1alpha1.BareMetalTarget) string {
	highest := t.Status.HighestInstallGeneration
	if t.Spec.InstallGeneration >= highest {
		return ""
	}
	return fmt.Sprintf("spec.installGeneration %d has no effect, because %d was reached already; set it to %d to install again",
		t.Spec.InstallGeneration, highest, highest+1)
}

// CheckProfile checks whether a target's machine, with the disk that spec.rootDisk selects,
// fits its profile; c is nil while the profile is not ready. The result is nil if it fits.
func CheckProfile(t *v1alpha1.BareMetalTarget, p *v1alpha1.BootProfile, c *Content) *InvalidError {
	root, err := RootDisk(t)
	if err != nil {
		return err
	}
	switch disk := t.Spec.Machine.Disks[root].Size.Value(); {
	case p.Spec.Architecture != t.Spec.Machine.Architecture:
		return invalid(v1alpha1.ReasonArchitectureMismatch, "spec.machine.architecture is %s and profile %s is for %s; choose another profile",
			t.Spec.Machine.Architecture, p.Name, p.Spec.Architecture)
	case c != nil && c.DiskBytes > disk:
		return invalid(v1alpha1.ReasonImageTooLarge, "spec.machine.disks[%d].size is %d bytes and the image of profile %s needs %d; "+
			"create another target with a larger disk, or choose another profile", root, disk, p.Name, c.DiskBytes)
	default:
		return nil
	}
}

// CheckRunner checks that the runner of a target's machine can attach it to the network.
// The result is nil if it can.
func CheckRunner(t *v1alpha1.BareMetalTarget, n Network) *InvalidError {
	if t.Spec.Machine.Runner != v1alpha1.RunnerSimulated || n.Mode == v1alpha1.NetworkUserspace {
		return nil
	}
	return invalid(v1alpha1.ReasonInvalid, "spec.machine.runner is Simulated, which requires a server with network mode %s, and the mode is %s; "+
		"create another target", v1alpha1.NetworkUserspace, n.Mode)
}

// CheckText checks that a text can be sent as JSON, which is UTF-8. source names the
// text. The result is nil if it can.
func CheckText(source string, text []byte) *InvalidError {
	if utf8.Valid(text) {
		return nil
	}
	if bytes.HasPrefix(text, []byte{0x1f, 0x8b}) {
		return invalid(v1alpha1.ReasonBadTemplate, "%s is compressed with gzip; store the text uncompressed", source)
	}
	line := 1
	for rest := text; ; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			return invalid(v1alpha1.ReasonBadTemplate, "%s is not valid UTF-8: line %d has the byte 0x%02x; convert the text to UTF-8", source, line, rest[0])
		}
		if r == '\n' {
			line++
		}
		rest = rest[size:]
	}
}

// KeptUnfit returns what the status of an installed target records as wrong with the
// templates of its profile, for the time until they have been checked again.
func KeptUnfit(t *v1alpha1.BareMetalTarget) Blocker {
	valid := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionValid)
	if !IsInstalled(t) || valid == nil || valid.Status != metav1.ConditionFalse || valid.Reason != v1alpha1.ReasonBadTemplate {
		return Blocker{}
	}
	return Blocker{Reason: valid.Reason, Message: valid.Message}
}
