// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"strings"
	"testing"

	"gotest.tools/v3/golden"
	"sigs.k8s.io/yaml"
)

func TestCloudInitFiles(t *testing.T) {
	for name, network := range map[string]string{
		"without-network": " \n",
		"network":         "version: 2\nethernets:\n  lab:\n    match: {macaddress: \"52:54:00:12:34:56\"}\n\n    addresses: [10.0.0.5/24]\n",
		"network-json":    `{"version":2,"ethernets":{"lab":{"dhcp4":true}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			files, err := CloudInitFiles("http://10.0.0.1/m/t0k\"en/ci/", network)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range files {
				b.WriteString("== " + f.Path + "\n" + f.Text)
				var parsed map[string]any
				if err := yaml.Unmarshal([]byte(f.Text), &parsed); err != nil {
					t.Errorf("%s: got error %v, want none", f.Path, err)
				}
				if n, ok := parsed["network"].(map[string]any); strings.Contains(f.Path, "network") && (!ok || n["version"] != 2.0) {
					t.Errorf("%s: got %v, want network configuration version 2", f.Path, parsed)
				}
			}
			golden.Assert(t, b.String(), name+".golden")
		})
	}
}

func TestCloudInitFilesRefusesInvalidNetworkConfig(t *testing.T) {
	for network, want := range map[string]string{
		"---\nversion: 2\n":         "without markers",
		"network:\n  version: 2\n":  "\"network:\" key",
		"\tversion: 2\n":            "indented by a tab",
		"version: 2\n...\nother: 1": "without markers",
	} {
		if _, err := CloudInitFiles("http://x/", network); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %q", network, err, want)
		}
	}
}
