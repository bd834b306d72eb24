// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNetworkConfigText(t *testing.T) {
	const simple = "version: 2\nethernets:\n  lab:\n    dhcp4: true\n"
	for name, c := range map[string]struct{ text, want string }{
		"plain":             {simple, simple},
		"marker":            {"---\n" + simple, simple},
		"end marker":        {simple + "...\n", simple},
		"directive":         {"%YAML 1.1\n---\n" + simple, simple},
		"byte order mark":   {"\ufeff" + simple, simple},
		"comments":          {"# a\n" + simple + "# b\n", simple},
		"JSON with tabs":    {"{\n\t\"version\": 2,\n\t\"ethernets\": {\"lab\": {\"dhcp4\": true}}\n}\n", "{\"version\": 2, \"ethernets\": {\"lab\": {\"dhcp4\": true}}}\n"},
		"JSON with slashes": {`{"version": 2, "ethernets": {"lab": {"addresses": ["10.0.0.1\/24"]}}}`, `{"version": 2, "ethernets": {"lab": {"addresses": ["10.0.0.1/24"]}}}` + "\n"},
		"MAC of digits":     {"version: 2\nethernets:\n  lab:\n    match: {macaddress: 52:54:00:12:34:56}\n", "version: 2\nethernets:\n  lab:\n    match: {macaddress: \"52:54:00:12:34:56\"}\n"},
		"yes":               {"version: 2\nethernets: {lab: {dhcp4: yes}}\n", "version: 2\nethernets: {lab: {dhcp4: yes}}\n"},
		"several lines":     {"version: 2\nethernets: {}\nx: |\n  a\n\n  b\n", "version: 2\nethernets: {}\nx: \"a\\n\\nb\\n\"\n"},
		"a date":            {"version: 2\nx: 2024-02-30\n", "version: 2\nx: \"2024-02-30\"\n"},
		"version 1":         {"version: 1\nconfig:\n  - type: physical\n    name: a\n", "version: 1\nconfig:\n  - type: physical\n    name: a\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := networkConfigText(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if _, refused := scanYAML(got); refused != nil || strings.Contains(got, "---") {
				t.Errorf("the result is refused: %+v", refused)
			}
		})
	}
}

func TestNetworkConfigTextRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"second document":  {"version: 2\n---\nversion: 2\n", "line 2: begins a second YAML document"},
		"outer key":        {"# x\nnetwork:\n  version: 2\n", "line 2: remove the outer"},
		"no version":       {"ethernets: {}\n", "version must be 1 or 2"},
		"version as text":  {"version: '2'\n", "line 1: version must be 1 or 2"},
		"empty":            {"", "version must be 1 or 2"},
		"not a mapping":    {"- 1\n", "must be a mapping"},
		"ethernets":        {"version: 2\nethernets: 5\n", "line 2: ethernets must be a mapping"},
		"an interface":     {"version: 2\nethernets:\n  lab: dhcp\n", "line 3: ethernets.lab must be a mapping"},
		"no config":        {"version: 1\n", `requires "config:"`},
		"config of what":   {"version: 1\nconfig:\n  - name: a\n", "line 3: each item"},
		"unknown tag":      {"version: 2\nx: !vault a\n", "line 2: has the tag !vault"},
		"tab that indents": {"version: 2\nethernets:\n\tlab: {}\n", "line 3"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := networkConfigText(c.text)
			var bad *ContentError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want a *ContentError with %q", err, c.want)
			}
		})
	}
}

// What a profile's template renders for every machine is checked with the profile.
func TestValidateNetworkConfigRendersSample(t *testing.T) {
	for name, c := range map[string]struct {
		template string
		good     bool
	}{
		"a MAC without quotes":     {"version: 2\nethernets:\n  lab:\n    match:\n      macaddress: {{ .MAC }}\n    addresses: [{{ .Address }}/{{ .PrefixLength }}]\n", true},
		"marker and a MAC":         {"---\nversion: 2\nethernets:\n  lab:\n    match: {macaddress: \"{{ .MAC }}\"}\n", true},
		"no version":               {"ethernets:\n  {{ .Name }}: {}\n", false},
		"two documents":            {"version: 2\n---\nx: {{ .Name }}\n", false},
		"depends on the machine":   {"{{ if eq .Name \"a\" }}version: 2\n{{ end }}", true},
		"what the sample lacks":    {"version: 2\nethernets: {}\nx: {{ index .DNS 1 }}\n", true},
		"depends on parameters":    {"{{ .Parameters.network }}", true},
		"exceeds the sample limit": {strings.Repeat("{{ toJson . }}", 3000), true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ValidateNetworkConfig(t.Context(), c.template); (err == nil) != c.good {
				t.Errorf("got error %v, want valid %v", err, c.good)
			}
		})
	}
}
