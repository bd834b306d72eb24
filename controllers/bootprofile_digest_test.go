// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// A profile's digest is recorded with the disks. If its computation changed, every
// installed target would be out of date, and targets with the policy Reinstall would be
// reinstalled.
func TestProfileDigestIsStable(t *testing.T) {
	const want = "hmac-sha256:eac4d4fd659c9b4e:4f472c0e212ed26af1d1bcb761b3cc2e557ee3150545a97c95aa917f858631bb"
	l := newLab(t)
	profile := newProfile("debian")
	l.create(profile)
	l.waitCondition(profile, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	if profile.Status.Digest != want {
		t.Errorf("got %s, want %s", profile.Status.Digest, want)
	}
	if len(profile.Status.Artifacts) != 4 {
		t.Errorf("got artifacts %+v, want 4", profile.Status.Artifacts)
	}
}
