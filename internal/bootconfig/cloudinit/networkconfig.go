// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// RenderNetworkConfig renders the template (static addressing of the lab NIC if empty) and
// checks that the result is network configuration, version 1 or 2, without an outer
// "network:" key. It returns one YAML mapping without document markers, comments and tabs,
// in which PyYAML reads every value as the result has it: a MAC address without quotes, for
// example, is quoted. The error is a *TemplateError or a *ContentError.
func RenderNetworkConfig(ctx context.Context, text string, v Values) (string, error) {
	if text == "" {
		return defaultNetworkConfig(v), nil
	}
	out, err := RenderTemplate(ctx, nameNetworkConfig, text, v)
	if err != nil {
		return "", err
	}
	return networkConfigText(out)
}

// networkConfigText checks a network configuration and returns it as RenderNetworkConfig
// does. It is the only check of a network configuration, for a profile and for a machine.
func networkConfigText(text string) (string, error) {
	root, refused, err := parseDocument(nameNetworkConfig, text)
	if err != nil {
		return "", err
	}
	if root == nil && refused != nil {
		return "", &ContentError{nameNetworkConfig, refused.line, refused.message}
	}
	config, err := rootMapping(nameNetworkConfig, root)
	if err != nil {
		return "", err
	}
	quoteAmbiguous(root, 0)
	if root != nil {
		if err := (&nodeCheck{document: nameNetworkConfig}).check(root, 0); err != nil {
			return "", err
		}
	}
	if err := checkNetwork(config); err != nil {
		return "", err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return "", &ContentError{nameNetworkConfig, root.Line, "invalid YAML: " + err.Error()}
	}
	return out.String(), nil
}

// quoteAmbiguous quotes the texts that PyYAML would read as something else or in another
// way, and removes the comments.
func quoteAmbiguous(n *yaml.Node, depth int) {
	if n == nil || depth > maxDepth {
		return
	}
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	if n.Kind == yaml.ScalarNode {
		tag := n.ShortTag()
		text := tag == "!!str" || tag == "!!timestamp"
		plain := n.Style == 0
		misread := plain && text && (timestamp.MatchString(n.Value) || base60.MatchString(n.Value) || n.Value == "=")
		if text && n.Style&yaml.TaggedStyle == 0 && (misread || strings.ContainsAny(n.Value, "\n\t")) {
			n.Tag = "!!str"
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	for _, child := range n.Content {
		quoteAmbiguous(child, depth+1)
	}
}

// devices are the keys of version 2 that contain interfaces by name.
var devices = []string{"ethernets", "wifis", "bonds", "bridges", "vlans", "tunnels", "vrfs", "modems", "dummy-devices", "virtual-ethernets"}

func checkNetwork(config map[string]entry) error {
	fail := func(n *yaml.Node, format string, args ...any) error {
		line := 0
		if n != nil {
			line = n.Line
		}
		return &ContentError{nameNetworkConfig, line, fmt.Sprintf(format, args...)}
	}
	if outer, ok := config["network"]; ok {
		return fail(outer.key, `remove the outer "network:" key and the indentation below it`)
	}
	version := config["version"]
	if version.value == nil || version.value.Value != "1" && version.value.Value != "2" || version.value.ShortTag() != "!!int" {
		return fail(version.key, "version must be 1 or 2")
	}
	if version.value.Value == "1" {
		list, ok := config["config"]
		if !ok || list.value.Kind != yaml.SequenceNode {
			return fail(list.key, `version 1 requires "config:" with a list of interfaces`)
		}
		for _, n := range list.value.Content {
			if kind, ok := entries(n)["type"]; !ok || kind.value.Kind != yaml.ScalarNode {
				return fail(n, `each item of "config:" must be a mapping with a type, such as physical`)
			}
		}
		return nil
	}
	for _, kind := range devices {
		section, ok := config[kind]
		if !ok || isNull(section.value) {
			continue
		}
		if section.value.Kind != yaml.MappingNode {
			return fail(section.value, "%s must be a mapping of interfaces by name", kind)
		}
		byName := entries(section.value)
		for _, name := range sortedKeys(byName) {
			if v := byName[name].value; !isNull(v) && v.Kind != yaml.MappingNode {
				return fail(v, "%s.%.40s must be a mapping", kind, name)
			}
		}
	}
	return nil
}

func sortedKeys(m map[string]entry) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

type nameservers struct {
	Addresses []string `yaml:"addresses,flow,omitempty"`
	Search    []string `yaml:"search,flow,omitempty"`
}

type route struct {
	To  string `yaml:"to"`
	Via string `yaml:"via"`
}

type ethernet struct {
	Match struct {
		MAC string `yaml:"macaddress"`
	} `yaml:"match"`
	DHCP4       bool         `yaml:"dhcp4"`
	DHCP6       bool         `yaml:"dhcp6"`
	AcceptRA    *bool        `yaml:"accept-ra,omitempty"`
	Addresses   []string     `yaml:"addresses,flow,omitempty"`
	Routes      []route      `yaml:"routes,omitempty"`
	Nameservers *nameservers `yaml:"nameservers,omitempty"`
	MTU         int          `yaml:"mtu,omitempty"`
	Optional    bool         `yaml:"optional,omitempty"`
}

type networkConfig struct {
	Version   int                 `yaml:"version"`
	Ethernets map[string]ethernet `yaml:"ethernets"`
}

// defaultNetworkConfig is static, so that the first boot does not wait for DHCP
// and the machine keeps its address while the provisioning server is down.
func defaultNetworkConfig(v Values) string {
	off := false
	nic := ethernet{
		AcceptRA:  &off,
		Addresses: []string{fmt.Sprintf("%s/%d", v.Address, v.PrefixLength)},
		MTU:       v.MTU,
	}
	nic.Match.MAC = strings.ToLower(v.MAC)
	if v.Gateway != "" {
		// Older renderers do not support "default".
		nic.Routes = []route{{To: "0.0.0.0/0", Via: v.Gateway}}
	}
	if len(v.DNS) > 0 {
		nic.Nameservers = &nameservers{Addresses: v.DNS}
		if v.Domain != "" {
			nic.Nameservers.Search = []string{v.Domain}
		}
	}
	return marshal("", networkConfig{Version: 2, Ethernets: map[string]ethernet{"lab": nic}})
}
