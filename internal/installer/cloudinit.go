// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// File is written into the installed system.
type File struct {
	Path string // relative to its root
	Text string
}

const generated = "# Written by the pxelab installer.\n"

// CloudInitFiles are what makes cloud-init fetch its data from seedURL at first
// boot, with networkConfig (version 2, without its "network:" key; may be
// empty) up before that.
//
// NoCloud is the only data source, and ds-identify is told not to add another:
// some releases (23.4, 24.1) look at a seedfrom in the system's configuration
// only if NoCloud stands alone in the list, and with "None" behind it a first
// boot without server would count as done, for good. fs_label is nil so that
// cloud-init need not search every disk for a seed, twice. Once the data came,
// manual_cache_clean keeps it: an installed machine boots without its server,
// and does not take itself for a new one.
func CloudInitFiles(seedURL, networkConfig string) ([]File, error) {
	quoted, err := json.Marshal(seedURL) // a JSON string is a YAML string
	if err != nil {
		return nil, fmt.Errorf("seed URL: %w", err)
	}
	files := []File{
		{"etc/cloud/cloud.cfg.d/99-pxelab.cfg", generated + `datasource_list: [NoCloud]
datasource:
  NoCloud:
    seedfrom: ` + string(quoted) + `
    fs_label: null
manual_cache_clean: true
`},
		{"etc/cloud/ds-identify.cfg", generated + "policy: enabled\n"},
	}
	if strings.TrimSpace(networkConfig) == "" {
		return files, nil
	}
	network, err := indentYAML(networkConfig)
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return append(files, File{"etc/cloud/cloud.cfg.d/99-pxelab-network.cfg", generated + "network:\n" + network}), nil
}

// indentYAML puts a block of YAML one level deeper. In JSON, which is YAML
// too, nothing depends on indentation, so the same holds.
func indentYAML(text string) (string, error) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "---"), strings.HasPrefix(line, "..."), strings.HasPrefix(line, "%"):
			return "", fmt.Errorf("%q: want one document without markers", line)
		case strings.HasPrefix(line, "network:"):
			return "", fmt.Errorf("it has a \"network:\" key; want what is below it")
		case strings.HasPrefix(line, "\t"):
			return "", fmt.Errorf("%q is indented by a tab", line)
		}
		b.WriteString("  " + line + "\n")
	}
	return b.String(), nil
}
