// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// cloud-init reads YAML with PyYAML's safe loader, which implements YAML 1.1. The parser
// of this package takes some texts that PyYAML refuses, and reads some values otherwise.
// The functions of this file take and read what PyYAML does.

// Plain scalars as PyYAML's resolver reads them (resolver.py), where yaml.v3 reads a text.
var (
	oldBool    = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$`)
	base60     = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$`)
	timestamp  = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2}|\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|[ \t]+)\d{1,2}:\d{2}:\d{2}(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d{1,2}(?::\d{2})?))?)$`)
	datePart   = regexp.MustCompile(`^(\d{4})-(\d{1,2})-(\d{1,2})(?:[Tt \t]+(\d{1,2}):(\d{2}):(\d{2}))?`)
	macAddress = regexp.MustCompile(`^[0-9]{2}(?::[0-9]{2}){5}$`)
)

// safeTags are the tags that the safe loader constructs.
var safeTags = map[string]bool{
	"!": true, "!!null": true, "!!bool": true, "!!int": true, "!!float": true, "!!binary": true, "!!timestamp": true,
	"!!omap": true, "!!pairs": true, "!!set": true, "!!str": true, "!!seq": true, "!!map": true,
}

const (
	// maxKeys limits a YAML mapping, and maxDepth the nesting of a document.
	maxKeys  = 2000
	maxDepth = 100
)

// parseYAML parses the only document of a text, nil if it is empty. It refuses what PyYAML
// refuses. The error is a *ContentError.
func parseYAML(document, text string) (*yaml.Node, error) {
	root, refused, err := parseDocument(document, text)
	if err == nil && refused != nil {
		err = &ContentError{document, refused.line, refused.message}
	}
	if err != nil || root == nil {
		return nil, err
	}
	return root, (&nodeCheck{document: document}).check(root, 0)
}

// parseDocument parses the only document of a text, nil if it is empty, and returns what
// PyYAML refuses of the text besides.
func parseDocument(document, text string) (*yaml.Node, *scanError, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	slashes, refused := scanYAML(text)
	parsed, rest := make([]byte, 0, len(text)), 0
	for _, at := range slashes { // the parser does not know the escape
		parsed = append(parsed, text[rest:at]...)
		rest = at + 1
	}
	parsed = append(parsed, text[rest:]...)
	decoder := yaml.NewDecoder(bytes.NewReader(parsed))
	var node, more yaml.Node
	switch err := decoder.Decode(&node); {
	case errors.Is(err, io.EOF):
		return nil, nil, nil
	case err != nil:
		if refused != nil { // PyYAML's message names the cause
			return nil, refused, nil
		}
		return nil, nil, invalidYAML(document, err)
	}
	switch err := decoder.Decode(&more); {
	case err == nil:
		return nil, nil, &ContentError{document, more.Line, `begins a second YAML document, and cloud-init reads only one; remove the "---" before it`}
	case !errors.Is(err, io.EOF):
		return nil, nil, invalidYAML(document, err)
	}
	return node.Content[0], refused, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func invalidYAML(document string, err error) *ContentError {
	e := &ContentError{Document: document, Message: "invalid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Message = strings.Replace(e.Message, m[0], "", 1)
	}
	return e
}

// nodeCheck refuses the nodes from which the safe loader constructs no value.
type nodeCheck struct{ document string }

func (c *nodeCheck) fail(n *yaml.Node, format string, args ...any) error {
	return &ContentError{c.document, n.Line, fmt.Sprintf(format, args...)}
}

func (c *nodeCheck) check(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return c.fail(n, "is nested deeper than %d levels", maxDepth)
	}
	if n.Style&yaml.TaggedStyle != 0 && !safeTags[n.ShortTag()] {
		return c.fail(n, "has the tag %.40s, which cloud-init does not know; remove it", n.Tag)
	}
	if n.Kind == yaml.ScalarNode && n.Style == 0 {
		if err := c.plain(n); err != nil {
			return err
		}
	}
	if n.Kind == yaml.MappingNode && len(n.Content)/2 > maxKeys {
		return c.fail(n, "a mapping has %d keys, more than the limit of %d", len(n.Content)/2, maxKeys)
	}
	for i, child := range n.Content {
		isKey := n.Kind == yaml.MappingNode && i%2 == 0
		switch {
		case isKey && child.ShortTag() == "!!merge":
			if err := c.merge(n.Content[i+1]); err != nil {
				return err
			}
			continue
		case isKey && (child.Kind == yaml.MappingNode || child.Kind == yaml.SequenceNode):
			return c.fail(child, "a key is a list or a mapping, which cloud-init cannot read; write a text")
		}
		if err := c.check(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// merge checks the value of the key "<<".
func (c *nodeCheck) merge(n *yaml.Node) error {
	values := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		values = n.Content
	}
	for _, v := range values {
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		if v.Kind != yaml.MappingNode {
			return c.fail(n, `the value of "<<" is neither a mapping nor a list of mappings`)
		}
	}
	return nil
}

// plain checks a scalar without quotes.
func (c *nodeCheck) plain(n *yaml.Node) error {
	switch {
	case n.Value == "=" || n.Value == "<<":
		return c.fail(n, "has %q without quotes, which cloud-init's YAML parser cannot read; quote it", n.Value)
	case macAddress.MatchString(n.Value) && base60.MatchString(n.Value):
		return c.fail(n, "the MAC address %s without quotes is a number in base 60 to cloud-init; quote it, in a template as {{ quote .MAC }}", n.Value)
	case timestamp.MatchString(n.Value) && !validDate(n.Value):
		return c.fail(n, "%s is a date that does not exist, which cloud-init's YAML parser refuses; quote it", n.Value)
	}
	return nil
}

// validDate reports whether Python can construct the date or time of a text that
// timestamp matches.
func validDate(text string) bool {
	m := datePart.FindStringSubmatch(text)
	var n [6]int
	for i, part := range m[1:] {
		n[i], _ = strconv.Atoi(part) // absent parts are 0
	}
	date := time.Date(n[0], time.Month(n[1]), n[2], 0, 0, 0, 0, time.UTC)
	return n[0] >= 1 && date.Year() == n[0] && int(date.Month()) == n[1] && date.Day() == n[2] && n[3] < 24 && n[4] < 60 && n[5] < 60
}

// isText reports whether PyYAML reads a scalar as a text.
func isText(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return false
	}
	plain := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	return !plain || !oldBool.MatchString(n.Value) && !base60.MatchString(n.Value)
}

// isTrue reports whether cloud-init takes a scalar for true (util.is_true).
func isTrue(n *yaml.Node) bool {
	switch strings.ToLower(n.Value) {
	case "true", "1", "on", "yes":
		return n.Kind == yaml.ScalarNode
	}
	return false
}

// entry is a key of a mapping and its value.
type entry struct{ key, value *yaml.Node }

// entries returns the entries of a mapping by key. Of a key that occurs twice PyYAML takes
// the last value. Values that are merged in by "<<" are taken where the mapping has no
// value itself. It returns nil for what is not a mapping.
func entries(n *yaml.Node) map[string]entry {
	left := maxMerged
	return merged(n, &left)
}

// maxMerged limits how many values are merged into one mapping: anchors can multiply them.
const maxMerged = 10_000

func merged(n *yaml.Node, left *int) map[string]entry {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	out := map[string]entry{}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() != "!!merge" {
			continue
		}
		sources := []*yaml.Node{n.Content[i+1]}
		if list := resolved(n.Content[i+1]); list.Kind == yaml.SequenceNode {
			sources = slices.Clone(list.Content)
			slices.Reverse(sources) // the first takes precedence
		}
		for _, source := range sources {
			if *left--; *left < 0 {
				break
			}
			from := merged(source, left)
			*left -= len(from)
			maps.Copy(out, from)
		}
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() != "!!merge" {
			out[resolved(n.Content[i]).Value] = entry{n.Content[i], resolved(n.Content[i+1])}
		}
	}
	return out
}

// resolved returns the node that an alias refers to.
func resolved(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// isNull reports whether a node has no value.
func isNull(n *yaml.Node) bool {
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// rootMapping returns the entries of a document that is a mapping, or is empty. The error
// is a *ContentError.
func rootMapping(document string, root *yaml.Node) (map[string]entry, error) {
	if isNull(root) {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &ContentError{document, root.Line, "must be a mapping of keys to values"}
	}
	return entries(root), nil
}
