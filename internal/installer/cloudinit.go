// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// File is a file to write into the installed system.
type File struct {
	Path string // relative to the installed system's root
	Text string
}

const generated = "# Written by the pxelab installer.\n"

// CloudInitFiles returns the files that make cloud-init fetch its data from
// seedURL at first boot. networkConfig (version 2, without its "network:" key;
// may be empty) is applied before that.
//
// NoCloud is the only data source, and ds-identify may not add another: some
// releases (23.4, 24.1) honour a seedfrom in the system's configuration only if
// NoCloud is the only entry, and with "None" after it a first boot without a
// server would count as complete for good. fs_label is null so that cloud-init
// does not search every disk for a seed, twice. manual_cache_clean keeps the
// fetched data, so that an installed machine boots without its server and does
// not take itself for a new instance.
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

// indentYAML indents a block of YAML by one level. JSON is YAML in which
// indentation has no meaning, so it is accepted too.
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
			return "", errors.New("has an outer \"network:\" key; give only its value")
		case strings.HasPrefix(line, "\t"):
			return "", fmt.Errorf("%q is indented by a tab; use spaces", line)
		}
		b.WriteString("  " + line + "\n")
	}
	return b.String(), nil
}
