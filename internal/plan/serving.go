// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// ServingObservation is the input of Unserved.
type ServingObservation struct {
	// Profile and Server are nil if they do not exist, Content if the profile is
	// not ready.
	Profile *v1alpha1.BootProfile
	Content *Content
	Server  *v1alpha1.ProvisioningServer
	// Connected reports that the manager is connected to the server's netbootd.
	Connected bool
	// EntryError is the reason why netbootd refused the target's entry; nil for none.
	EntryError error
	// InForce reports that netbootd serves the target's entry and has reported its
	// current attempt, and that it has all of the profile as it is now.
	InForce bool
	// CheckProgram returns an error if the server has no network boot program for
	// the target's architecture. It may read files, so it is called only when
	// nothing before it blocks.
	CheckProgram func() error
	// Pending is how many files and texts of the target netbootd does not have yet, and
	// UploadError why the last attempt to send one failed; nil if it did not.
	Pending     int
	UploadError error
	// TemplatesPending reports that the profile's templates have not been rendered
	// with the target's values yet.
	TemplatesPending bool
}

// Unserved returns why the server cannot serve an installation of the target yet;
// the zero Blocker if it can.
func Unserved(t *v1alpha1.BareMetalTarget, o ServingObservation) Blocker {
	s := o.Server
	switch {
	case o.Content == nil:
		return waitForProfile(t, o.Profile)
	case s == nil:
		return waitForServer("there is no server %s", t.Spec.ProvisioningServerRef.Name)
	case v1alpha1.Paused(s):
		return waitForServer("server %s is paused", s.Name)
	case !o.Connected:
		return waitForServer("server %s is not ready: %s", s.Name, s.Status.Message)
	case o.EntryError != nil:
		return waitForServer("server %s did not accept this target: %v", s.Name, o.EntryError)
	case o.TemplatesPending:
		return Blocker{Reason: v1alpha1.ReasonWaitingForProfile, Transient: true, Message: fmt.Sprintf(
			"the templates of profile %s are being checked with this target's values", t.Spec.BootProfileRef.Name)}
	case o.Pending > 0 && o.UploadError != nil:
		return waitForServer("the content of profile %s cannot be sent to server %s; trying again: %v",
			t.Spec.BootProfileRef.Name, s.Name, o.UploadError)
	case o.Pending > 0:
		return waitForServer("the content of profile %s is being sent to server %s", t.Spec.BootProfileRef.Name, s.Name)
	case !o.InForce:
		b := waitForServer("the configuration of this target is being sent to server %s", s.Name)
		b.Transient = true
		return b
	}
	if err := o.CheckProgram(); err != nil {
		return Blocker{Reason: v1alpha1.ReasonNoIPXEProgram, Message: fmt.Sprintf("server %s: %v", s.Name, err)}
	}
	return Blocker{}
}

// waitForProfile leaves out the figures of the profile's progress: a message that changed
// with them would be written to every target of the profile.
func waitForProfile(t *v1alpha1.BareMetalTarget, p *v1alpha1.BootProfile) Blocker {
	message := "profile " + t.Spec.BootProfileRef.Name + " is not ready"
	if p != nil {
		ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		switch {
		case v1alpha1.Paused(p):
			message += ": it is paused"
		case p.Status.Progress != "":
			message += ": its artifacts are being fetched"
		case ready != nil && ready.Status == metav1.ConditionFalse:
			message += ": " + ready.Message
		}
	}
	return Blocker{Reason: v1alpha1.ReasonWaitingForProfile, Message: message}
}

func waitForServer(format string, args ...any) Blocker {
	return Blocker{Reason: v1alpha1.ReasonWaitingForServer, Message: fmt.Sprintf(format, args...)}
}
