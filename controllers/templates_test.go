// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/bootconfig"
)

// templatesOf is the source to hold for a target whose templates are slow.
func templatesOf(target string) string { return "templates of " + target }

// checkTemplates is a Host's CheckTemplates that hold delays.
func (l *library) checkTemplates(ctx context.Context, in bootconfig.Input) error {
	l.mu.Lock()
	gate := l.gates[templatesOf(in.Machine.Name)]
	l.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return bootconfig.Check(ctx, in)
}

// As many targets as there are reconcile workers have slow templates.
func TestTargetsWithSlowTemplatesDelayNoOthers(t *testing.T) {
	l := up(t)
	l.create(newProfile("slow"))
	var releases []func()
	for i := range 4 {
		target := newTarget(fmt.Sprintf("slow-%d", i))
		target.Spec.BootProfileRef.Name = "slow"
		releases = append(releases, l.library.hold(templatesOf(target.Name)))
		l.create(target)
	}
	const checking = "the templates of profile slow are being checked with this target's values"
	for i := range 4 {
		target := l.target(fmt.Sprintf("slow-%d", i))
		l.waitCondition(target, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonWaitingForProfile, checking)
		l.waitPhase(target.Name, v1alpha1.TargetPending)
	}
	l.create(newTarget("other"))
	l.becomesReady("other")
	for i := range 4 {
		target := l.target(fmt.Sprintf("slow-%d", i))
		if target.Status.Message != checking || l.state(target).Phase.Alive() {
			t.Errorf("%s has phase %s and message %q, want it to wait", target.Name, target.Status.Phase, target.Status.Message)
		}
	}
	for _, release := range releases {
		release()
	}
	for i := range 4 {
		l.waitPhase(fmt.Sprintf("slow-%d", i), v1alpha1.TargetPXE)
	}
}

// Templates are checked with the SSH keys that they are served with.
func TestTemplatesAreCheckedWithSSHKeys(t *testing.T) {
	l := up(t)
	profile := newProfile("keys")
	profile.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\nusers:\n- name: me\n  ssh_authorized_keys: [ {{ index .SSHAuthorizedKeys 1 | toJson }} ]\n"}
	target := newTarget("target-1")
	target.Spec.BootProfileRef.Name = "keys"
	l.create(profile, target)
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, "index out of range") // the lab's key is the only one
	update(l, l.server("lab"), func(s *v1alpha1.ProvisioningServer) { s.Spec.SSHAuthorizedKeys = []string{"ssh-ed25519 AAAA me"} })
	l.waitPhase("target-1", v1alpha1.TargetPXE)
	l.waitCondition(target, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "")
}

// A disk is not wiped for templates that have not been checked.
func TestTargetKeepsDiskUntilTemplatesAreChecked(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	release := l.library.hold(templatesOf(target.Name))
	defer release()
	update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) {
		p.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\nhostname: {{ .Parameters.missing }}\n"}
	})
	l.waitCondition(l.profile("debian"), v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration++ })
	l.waitCondition(target, v1alpha1.ConditionProgressing, "True", v1alpha1.ReasonWaitingForProfile, "the disk is kept until then")
	l.reconciled(target)
	if got := l.target("target-1").Status.DiskGeneration; got != 1 {
		t.Errorf("the disk is of generation %d, want it to be kept", got)
	}
	release()
	l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, "missing")
	if got := l.target("target-1").Status.DiskGeneration; got != 1 {
		t.Errorf("the disk is of generation %d, want it to be kept", got)
	}
}

func TestSecretThatIsNotUTF8IsRefused(t *testing.T) {
	l := up(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: templateLabel}, Data: map[string][]byte{
		"gz":     {0x1f, 0x8b, 0x08, 0x00, 0x00},
		"latin1": []byte("#!/bin/sh\necho caf\xe9 >/etc/x\n"),
	}}
	l.create(secret)
	for key, want := range map[string]string{
		"gz":     "spec.userData.secretRef: key gz of secret s is compressed with gzip",
		"latin1": "spec.userData.secretRef: key latin1 of secret s is not valid UTF-8: line 2 has the byte 0xe9",
	} {
		profile, target := newProfile(key), newTarget(key)
		profile.Spec.UserData = &v1alpha1.TextSource{SecretRef: &v1alpha1.SecretKeyReference{Name: "s", Key: key}}
		target.Spec.BootProfileRef.Name = key
		l.create(profile, target)
		l.waitCondition(profile, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, want)
		l.waitCondition(target, v1alpha1.ConditionValid, "False", v1alpha1.ReasonBadTemplate, "profile "+key+": "+want)
		l.waitPhase(key, v1alpha1.TargetFailed)
	}
	// Only those targets are refused, and only until the Secret is corrected.
	l.create(newTarget("healthy"))
	l.becomesReady("healthy")
	update(l, secret, func(s *corev1.Secret) { s.Data["latin1"] = []byte("#!/bin/sh\necho café >/etc/x\n") })
	l.waitPhase("latin1", v1alpha1.TargetPXE)
	l.waitPhase("gz", v1alpha1.TargetFailed)
}
