// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestUnserved(t *testing.T) {
	const forServer = v1alpha1.ReasonWaitingForServer
	for name, c := range map[string]struct {
		edit   func(*ServingObservation)
		reason string
		text   string
		brief  bool
	}{
		"served":            {func(*ServingObservation) {}, "", "", false},
		"profile_not_ready": {func(o *ServingObservation) { o.Content = nil }, v1alpha1.ReasonWaitingForProfile, "are being fetched", false},
		"profile_failed": {func(o *ServingObservation) {
			o.Content, o.Profile.Status.Progress = nil, ""
			o.Profile.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Message: "kernel: 404"}}
		}, v1alpha1.ReasonWaitingForProfile, "profile debian is not ready: kernel: 404", false},
		"profile_missing": {func(o *ServingObservation) {
			o.Content = nil
			o.Profile = nil
		}, v1alpha1.ReasonWaitingForProfile, "profile debian is not ready", false},
		"profile_paused": {func(o *ServingObservation) {
			o.Content = nil
			o.Profile.Annotations = map[string]string{v1alpha1.PausedAnnotation: ""}
		}, v1alpha1.ReasonWaitingForProfile, "profile debian is not ready: it is paused", false},
		"server_missing": {func(o *ServingObservation) { o.Server = nil }, forServer, "there is no server lab", false},
		"server_paused": {func(o *ServingObservation) {
			o.Server.Annotations = map[string]string{v1alpha1.PausedAnnotation: ""}
		}, forServer, "paused", false},
		"server_not_connected": {func(o *ServingObservation) { o.Connected = false }, forServer, "not ready: booting", false},
		"entry_refused":        {func(o *ServingObservation) { o.EntryError = errors.New("too large") }, forServer, "too large", false},
		"entry_being_sent":     {func(o *ServingObservation) { o.InForce = false }, forServer, "being sent", true},
		"no_boot_program": {func(o *ServingObservation) {
			o.CheckProgram = func() error { return errors.New("no iPXE") }
		}, v1alpha1.ReasonNoIPXEProgram, "no iPXE", false},
		"content_missing": {func(o *ServingObservation) { o.Pending, o.InForce = 2, false }, forServer, "the content of profile debian is being sent", false},
		"content_refused": {func(o *ServingObservation) {
			o.Pending, o.InForce, o.UploadError = 2, false, errors.New("no space left")
		}, forServer, "the content of profile debian cannot be sent to server lab; trying again: no space left", false},
		"templates_pending": {
			func(o *ServingObservation) { o.TemplatesPending, o.InForce = true, false }, v1alpha1.ReasonWaitingForProfile,
			"the templates of profile debian are being checked", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bmt := &v1alpha1.BareMetalTarget{}
			bmt.Spec.BootProfileRef.Name = "debian"
			bmt.Spec.ProvisioningServerRef.Name = "lab"
			o := ServingObservation{
				Profile: &v1alpha1.BootProfile{Status: v1alpha1.BootProfileStatus{Progress: "image 10%"}},
				Content: &Content{},
				Server: &v1alpha1.ProvisioningServer{
					ObjectMeta: metav1.ObjectMeta{Name: "lab"}, Status: v1alpha1.ProvisioningServerStatus{Message: "booting"},
				},
				Connected:    true,
				InForce:      true,
				CheckProgram: func() error { return nil },
			}
			c.edit(&o)
			got := Unserved(bmt, o)
			if got.Reason != c.reason {
				t.Errorf("got reason %q, want %q", got.Reason, c.reason)
			}
			if got.Transient != c.brief {
				t.Errorf("got transient %t, want %t", got.Transient, c.brief)
			}
			if got.Terminal {
				t.Error("got a terminal blocker, want one that ends by itself")
			}
			checkMessage(t, "blocker", got.Message, c.text)
		})
	}
}
