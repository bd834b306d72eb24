// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxWarnings limits the warnings of one document.
const maxWarnings = 5

// textKeys are keys of cloud-config whose value is a text.
var textKeys = map[string]bool{
	"hostname": true, "fqdn": true, "name": true, "passwd": true, "password": true, "plain_text_passwd": true, "hashed_passwd": true,
	"macaddress": true, "mac_address": true, "timezone": true, "locale": true,
}

// warner collects what is valid and not what it looks like. Its messages contain no value,
// which may be a secret.
type warner struct {
	document string
	found    []string
}

func (w *warner) add(n *yaml.Node, format string, args ...any) {
	if len(w.found) < maxWarnings {
		w.found = append(w.found, fmt.Sprintf("%s, line %d: %s", w.document, n.Line, fmt.Sprintf(format, args...)))
	}
}

// walk visits the nodes of a document, whose depth is limited.
func (w *warner) walk(n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		lines := map[string]int{}
		for i := 0; i < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if first, twice := lines[key.Value]; twice && key.ShortTag() != "!!merge" {
				w.add(key, "the key %.40q occurs at line %d already; cloud-init takes the last value", key.Value, first)
			}
			lines[key.Value] = key.Line
			if textKeys[key.Value] && value.Kind == yaml.ScalarNode && !isNull(value) && !isText(value) {
				w.add(value, "the value of %s is not a text to cloud-init (YAML 1.1); quote it", key.Value)
			}
		}
	}
	for _, child := range n.Content {
		w.walk(child)
	}
}
