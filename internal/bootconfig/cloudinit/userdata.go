// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"go.yaml.in/yaml/v3"
)

// Template names in errors.
const (
	nameUserData      = "user-data"
	nameNetworkConfig = "network-config"
)

// maxUserData is a size, in bytes, that NoCloud and similar data sources accept.
const maxUserData = 512 << 10

// DefaultUserData is the user-data of a machine without a template: an empty
// document, since vendor-data configures account and reporting.
const DefaultUserData = "#cloud-config\n{}\n"

// ContentError reports a document that cloud-init would not accept, or that
// disables what the target's readiness depends on.
type ContentError struct {
	// Document is "user-data" or "network-config".
	Document string
	// Line counts from 1; 0 if unknown.
	Line    int
	Message string
}

func (e *ContentError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s, line %d: %s", e.Document, e.Line, e.Message)
	}
	return e.Document + ": " + e.Message
}

// RenderUserData renders the template (DefaultUserData if empty) and checks the
// result. cloud-init ignores the users list of vendor-data, with the lab's
// account, if user-data has one; RenderUserData then adds the account in a
// second part, which cloud-init appends. The error is a *TemplateError or a
// *ContentError.
func RenderUserData(ctx context.Context, text string, v Values) (string, error) {
	if text == "" {
		text = DefaultUserData
	}
	out, err := RenderTemplate(ctx, nameUserData, text, v)
	if err != nil {
		return "", err
	}
	if err := CheckUserData(out); err != nil {
		return "", err
	}
	return withAccount(out, v), nil
}

// Validate checks a user-data template without a machine's values: the template
// must parse, refer to existing fields and begin with a header that cloud-init
// accepts. A template without actions is checked as CheckUserData does. The
// error is a *TemplateError or a *ContentError.
func Validate(text string) error {
	if text == "" {
		return nil
	}
	t, err := parseTemplate(nameUserData, text)
	if err != nil {
		return err
	}
	if err := checkFields(nameUserData, t.Tree); err != nil {
		return err
	}
	if !strings.Contains(text, "{{") {
		return CheckUserData(text)
	}
	if !strings.HasPrefix(text, "{{") && headerOf(text) == headerNone {
		return errHeader()
	}
	return checkKeys(text)
}

// ValidateNetworkConfig checks a network-config template as Validate does.
func ValidateNetworkConfig(text string) error {
	if text == "" {
		return nil
	}
	t, err := parseTemplate(nameNetworkConfig, text)
	if err != nil {
		return err
	}
	if err := checkFields(nameNetworkConfig, t.Tree); err != nil {
		return err
	}
	if strings.Contains(text, "{{") {
		return nil
	}
	return checkNetworkConfig(text)
}

// Parameters returns the sorted names of the parameters that a template
// requires, that is, uses as .Parameters.NAME; nil if it does not parse.
func Parameters(text string) []string {
	t, err := parseTemplate(nameUserData, text)
	if err != nil {
		return nil
	}
	var names []string
	for _, part := range t.Templates() {
		eachField(part.Tree, func(ident []string, _ int) {
			if len(ident) > 1 && ident[0] == "Parameters" {
				names = append(names, ident[1])
			}
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

type header int

const (
	headerNone header = iota
	headerConfig
	headerJinja
	headerOther
)

// headerOf determines the type of user-data from its first line, as cloud-init
// does.
func headerOf(text string) header {
	first, _, _ := strings.Cut(text, "\n")
	first = strings.TrimRight(first, " \t\r")
	switch {
	case first == "#cloud-config":
		return headerConfig
	case strings.HasPrefix(first, "## template:") && strings.Contains(first, "jinja"):
		return headerJinja
	}
	others := []string{
		"#!", "#include", "#cloud-config-archive", "#cloud-config-jsonp", "#cloud-boothook", "#part-handler",
		"Content-Type: multipart/", "MIME-Version:",
	}
	for _, prefix := range others {
		if strings.HasPrefix(first, prefix) {
			return headerOther
		}
	}
	return headerNone
}

func errHeader() error {
	return &ContentError{nameUserData, 1, `cloud-init would ignore this; the first line must begin with "#cloud-config" (or "#!", ` +
		`"## template: jinja", "#cloud-config-archive", "#cloud-boothook", "#include" or a MIME multipart header)`}
}

// CheckUserData checks rendered user-data. The error is a *ContentError.
func CheckUserData(text string) error {
	if len(text) > maxUserData {
		return &ContentError{nameUserData, 0, fmt.Sprintf("has %d bytes, more than the limit of %d", len(text), maxUserData)}
	}
	kind := headerOf(text)
	switch kind {
	case headerNone:
		return errHeader()
	case headerConfig:
		config, err := parseMapping(nameUserData, text)
		if err != nil {
			return err
		}
		return checkConfig(config)
	default:
		return checkKeys(text)
	}
}

const (
	reservedPhoneHome = "phone_home is reserved: it reports to the lab's server that the machine is ready and which SSH host keys it has; " +
		"remove it (a runcmd can report elsewhere)"
	reservedVendorData = "vendor_data must not be disabled: it contains the lab's account and phone_home; remove it"
)

// checkConfig refuses cloud-config that disables the lab's phone_home.
func checkConfig(config map[string]any) error {
	if _, ok := config["phone_home"]; ok {
		return &ContentError{nameUserData, 0, reservedPhoneHome}
	}
	if vendor, ok := config["vendor_data"]; ok {
		settings, ok := vendor.(map[string]any)
		enabled, given := settings["enabled"]
		if !ok || given && enabled != true && !slices.Contains([]string{"true", "True", "on", "yes", "1"}, fmt.Sprint(enabled)) {
			return &ContentError{nameUserData, 0, reservedVendorData}
		}
	}
	if modules, ok := config["cloud_final_modules"]; ok {
		text := fmt.Sprint(modules)
		if !strings.Contains(text, "phone-home") && !strings.Contains(text, "phone_home") {
			return &ContentError{nameUserData, 0, "cloud_final_modules lacks phone-home, which reports that the machine is ready; add it"}
		}
	}
	return nil
}

var (
	phoneHomeLine = regexp.MustCompile(`(?m)^[ \t-]*"?phone_home"?[ \t]*:`)
	usersLine     = regexp.MustCompile(`(?m)^users[ \t]*:`)
)

// checkKeys refuses a phone_home key in text that is not plain YAML: an archive,
// a Jinja template or a MIME message. In a script the key has no meaning.
func checkKeys(text string) error {
	if place := phoneHomeLine.FindStringIndex(text); place != nil && !strings.HasPrefix(text, "#!") {
		return &ContentError{nameUserData, 1 + strings.Count(text[:place[0]], "\n"), reservedPhoneHome}
	}
	return nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// parseMapping parses a YAML document that must be a mapping or empty.
func parseMapping(document, text string) (map[string]any, error) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		e := &ContentError{Document: document, Message: "invalid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			_, _ = fmt.Sscan(m[1], &e.Line)
			e.Message = strings.Replace(e.Message, m[0], "", 1)
		}
		return nil, e
	}
	if node.Kind == 0 {
		return nil, nil
	}
	root := node.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &ContentError{document, root.Line, "must be a mapping of keys to values"}
	}
	if err := checkMappings(document, root); err != nil {
		return nil, err
	}
	out := map[string]any{}
	if err := root.Decode(&out); err != nil {
		return nil, &ContentError{document, root.Line, err.Error()}
	}
	return out, nil
}

// maxKeys limits a YAML mapping: the decoder compares every key with every other.
const maxKeys = 2000

// checkMappings refuses keys that occur twice in a mapping, of which the decoder would
// report every pair, and mappings with too many keys.
func checkMappings(document string, n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		if len(n.Content)/2 > maxKeys {
			return &ContentError{document, n.Line, fmt.Sprintf("a mapping has %d keys, more than the limit of %d", len(n.Content)/2, maxKeys)}
		}
		type key struct {
			kind  yaml.Kind
			value string
		}
		lines := map[key]int{}
		for i := 0; i < len(n.Content); i += 2 {
			k := n.Content[i]
			id := key{k.Kind, k.Value}
			if first, ok := lines[id]; ok {
				return &ContentError{document, k.Line, fmt.Sprintf("mapping key %.40q is already defined at line %d", k.Value, first)}
			}
			lines[id] = k.Line
		}
	}
	for _, child := range n.Content {
		if err := checkMappings(document, child); err != nil {
			return err
		}
	}
	return nil
}

// checkFields refuses references to fields that Values does not have, as far as
// that can be decided without executing the template.
func checkFields(name string, tree *parse.Tree) error {
	var err error
	eachField(tree, func(ident []string, line int) {
		if err == nil && !knownFields[ident[0]] {
			err = &TemplateError{Template: name, Line: line, Missing: ident[0], Err: errors.New("no such value")}
		}
	})
	return err
}

// eachField calls visit for every .A.B in the tree whose dot is the top-level
// data, which holds outside the bodies of range and with.
func eachField(tree *parse.Tree, visit func(ident []string, line int)) {
	if tree == nil {
		return
	}
	var list func(*parse.ListNode)
	var pipe func(*parse.PipeNode)
	pipe = func(p *parse.PipeNode) {
		if p == nil {
			return
		}
		for _, cmd := range p.Cmds {
			for _, arg := range cmd.Args {
				switch n := arg.(type) {
				case *parse.FieldNode:
					visit(n.Ident, lineOf(tree, n))
				case *parse.PipeNode:
					pipe(n)
				}
			}
		}
	}
	list = func(l *parse.ListNode) {
		if l == nil {
			return
		}
		for _, n := range l.Nodes {
			switch n := n.(type) {
			case *parse.ActionNode:
				pipe(n.Pipe)
			case *parse.IfNode:
				pipe(n.Pipe)
				list(n.List)
				list(n.ElseList)
			case *parse.RangeNode:
				pipe(n.Pipe)
				list(n.ElseList)
			case *parse.WithNode:
				pipe(n.Pipe)
				list(n.ElseList)
			case *parse.TemplateNode:
				pipe(n.Pipe)
			}
		}
	}
	list(tree.Root)
}

func lineOf(tree *parse.Tree, n parse.Node) int {
	var line int
	place, _ := tree.ErrorContext(n)
	if parts := strings.Split(place, ":"); len(parts) > 2 {
		// A location in another form leaves the line unknown.
		_, _ = fmt.Sscan(parts[len(parts)-2], &line)
	}
	return line
}
