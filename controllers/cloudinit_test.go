// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// What every target would be refused for is reported by the profile.
func TestProfileReportsWhatCloudInitRefuses(t *testing.T) {
	l := newLab(t)
	networkConfig := func(text string) *v1alpha1.BootProfile {
		p := newProfile("network")
		p.Spec.NetworkConfig = &v1alpha1.TextSource{Inline: text}
		return p
	}
	profile := networkConfig("---\nversion: 2\nethernets:\n  lab:\n    match: {macaddress: {{ .MAC }}}\n    dhcp4: true\n...\n")
	l.create(profile)
	l.waitCondition(profile, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
	for _, c := range []struct{ text, message string }{
		{"version: 2\nethernets: 5\n", "spec.networkConfig: network-config, line 2: ethernets must be a mapping"},
		{"version: 2\n---\nversion: 1\n", "spec.networkConfig: network-config, line 2: begins a second YAML document"},
		{"version: 3\nx: {{ .Name }}\n", "version must be 1 or 2"},
	} {
		update(l, profile, func(p *v1alpha1.BootProfile) { p.Spec.NetworkConfig.Inline = c.text })
		l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonBadTemplate, c.message)
	}
	update(l, profile, func(p *v1alpha1.BootProfile) {
		p.Spec.NetworkConfig = nil
		p.Spec.UserData = &v1alpha1.TextSource{Inline: "#cloud-config\nhostname:\tfoo\n"}
	})
	l.waitCondition(profile, v1alpha1.ConditionReady, "False", v1alpha1.ReasonBadTemplate, "spec.userData: user-data, line 2: has a tab")
	update(l, profile, func(p *v1alpha1.BootProfile) { p.Spec.UserData.Inline = "#cloud-config\nlocale: C\nlocale: C.UTF-8\n" })
	l.waitCondition(profile, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "line 3: the key \"locale\" occurs at line 2 already")
}
