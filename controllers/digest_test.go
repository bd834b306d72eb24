// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// A profile's digest is written beside disks: computed in another way, every
// installed target would be out of date, and those that reinstall by themselves
// would. The installer is no part of it.
func TestTheDigestOfAProfileStaysWhatItIs(t *testing.T) {
	const want = "sha256:9a83e539e2742c103c074d3be07877b51a41c85d03cd6ef4c511ab0b662c2a62"
	l := newLab(t)
	profile := newProfile("debian")
	l.create(profile)
	l.waitCondition(profile, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	if profile.Status.Digest != want {
		t.Errorf("got %s, want %s", profile.Status.Digest, want)
	}
	if len(profile.Status.Artifacts) != 4 {
		t.Errorf("artifacts %+v", profile.Status.Artifacts)
	}
}
