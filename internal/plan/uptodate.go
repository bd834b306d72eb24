// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// behind reports whether the profile is known to have changed since the
// installation.
func behind(r targetdisk.Record, profileDigest string) bool {
	return r.Installed && profileChanged(r.ProfileDigest, profileDigest)
}

// UpToDateInput is what an installed system and the machine that runs are compared with.
type UpToDateInput struct {
	// ProfileDigest is the digest of the profile's content, "" while the profile
	// is not ready.
	ProfileDigest string
	// Network is the lab network, the zero Prefix if it is unknown or the system's
	// configuration does not depend on its prefix; see NetworkOfTemplates.
	Network netip.Prefix
	// Declared is what the target would be installed with now, nil if that is unknown.
	Declared *netbootapi.Declaration
	// Pending is the result of PendingChanges.
	Pending []v1alpha1.PendingChange
}

// upToDateInput returns the input without its Pending.
func upToDateInput(o TargetObservation) UpToDateInput {
	return UpToDateInput{ProfileDigest: o.ProfileDigest, Network: o.Network, Declared: o.Declared}
}

// NetworkOfTemplates returns the network for UpToDateInput. A system whose profile has a
// template of the network configuration depends on the prefix only if a template uses it.
func NetworkOfTemplates(n Network, t Templates) netip.Prefix {
	if !t.useNetworkValue(".PrefixLength") {
		return netip.Prefix{}
	}
	return n.Prefix
}

// useNetworkValue reports whether what is rendered may contain a value of the network. The
// default network configuration contains all of them.
func (t Templates) useNetworkValue(name string) bool {
	return t.NetworkConfig == "" || strings.Contains(t.NetworkConfig, name) || strings.Contains(t.UserData, name)
}

// UpToDateCondition returns the condition that reports whether the disk was installed from
// the current spec, profile and network, and the machine started with the current spec.
// What an installation changes is reported before what a power-on changes: the
// installation powers the machine on.
func UpToDateCondition(t *v1alpha1.BareMetalTarget, r targetdisk.Record, in UpToDateInput) Condition {
	const kind = v1alpha1.ConditionUpToDate
	const reinstall = "raise spec.installGeneration to wipe the disk and reinstall it"
	c := profileCondition(t, r, in.ProfileDigest)
	install := fieldsOf(in.Pending, v1alpha1.AppliesAtInstall)
	start := fieldsOf(in.Pending, v1alpha1.AppliesAtPowerOn)
	changed := c.Status == metav1.ConditionFalse // which reports how the rest of the changes is applied as well
	switch {
	case changed:
	case networkChanged(r, in):
		c = condition(kind, false, v1alpha1.ReasonReinstallNeeded, fmt.Sprintf(
			"the lab network is now %s and the disk was installed for %s; %s, or change the prefix in the installed system",
			in.Network, r.Network, reinstall))
	case len(install) > 0:
		c = condition(kind, false, v1alpha1.ReasonReinstallNeeded, fmt.Sprintf("changed since the disk was installed: %s; %s, or undo the change",
			strings.Join(install, ", "), reinstall))
	}
	if len(install) > 0 && (changed || networkChanged(r, in)) {
		c.Message = joinNonEmpty("; ", c.Message, "also changed since then: "+strings.Join(install, ", "))
	}
	if len(start) > 0 {
		const restart = "set spec.power to Off and then to On to apply the change"
		if c.Status == metav1.ConditionFalse {
			c.Message = joinNonEmpty("; ", c.Message, "changed since the machine was powered on: "+strings.Join(start, ", "))
		} else {
			c = condition(kind, false, v1alpha1.ReasonRestartNeeded, fmt.Sprintf("changed since the machine was powered on: %s; %s",
				strings.Join(start, ", "), restart))
		}
	}
	c.Message = joinNonEmpty("; ", c.Message, generationNote(t))
	return c
}

// networkChanged reports whether the system was installed for another lab network.
func networkChanged(r targetdisk.Record, in UpToDateInput) bool {
	return r.Installed && r.Network != "" && in.Network.IsValid() && r.Network != in.Network.String()
}

func profileCondition(t *v1alpha1.BareMetalTarget, r targetdisk.Record, profileDigest string) Condition {
	const kind = v1alpha1.ConditionUpToDate
	name := t.Spec.BootProfileRef.Name
	switch {
	case !r.Installed:
		return unknown(kind, v1alpha1.ReasonNotInstalled, "nothing is installed yet")
	case r.ProfileDigest == "":
		return unknown(kind, v1alpha1.ReasonUnknownProfile,
			"it was not recorded what the disk was installed from; raise spec.installGeneration to install it again")
	case profileDigest == "":
		return unknown(kind, v1alpha1.ReasonWaitingForProfile, fmt.Sprintf("profile %s is not ready", name))
	case !comparableDigests(r.ProfileDigest, profileDigest):
		return unknown(kind, v1alpha1.ReasonUnknownProfile, "what the disk was installed from was recorded with another key or by another version of pxelab, "+
			"so that it cannot be compared; raise spec.installGeneration to install it again")
	case !behind(r, profileDigest):
		return condition(kind, true, v1alpha1.ReasonUpToDate, fmt.Sprintf("the disk was installed from the current profile %s", name))
	}
	message := fmt.Sprintf("profile %s has changed since the disk was installed; ", name)
	if t.Spec.ProfileChangePolicy == v1alpha1.ProfileChangeReinstall {
		message += "the disk is reinstalled as soon as the server has received all of the profile"
	} else {
		message += "raise spec.installGeneration to wipe the disk and reinstall it, or set spec.profileChangePolicy to Reinstall"
	}
	return condition(kind, false, v1alpha1.ReasonProfileChanged, message)
}
