// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"go.yaml.in/yaml/v3"
)

// Names of the templates in errors.
const (
	nameUserData      = "user-data"
	nameNetworkConfig = "network-config"
)

// maxUserData is what NoCloud and its like take without complaint.
const maxUserData = 512 << 10

// DefaultUserData is what a machine without a user-data template gets: nothing
// but a valid document, since the account and the report come by vendor-data.
const DefaultUserData = "#cloud-config\n{}\n"

// ContentError says why rendered data is nothing that cloud-init would take,
// or takes away what Ready depends on.
type ContentError struct {
	// Document is "user-data" or "network-config".
	Document string
	// Line counts from 1; 0 when unknown.
	Line    int
	Message string
}

func (e *ContentError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s, line %d: %s", e.Document, e.Line, e.Message)
	}
	return e.Document + ": " + e.Message
}

// RenderUserData renders the template (DefaultUserData when empty) and checks
// the result. The lab's own account reaches the machine by vendor-data, whose
// users list cloud-init drops when user-data has one: then the account is sent
// along as a second part that cloud-init appends. The error is a
// *TemplateError or a *ContentError.
func RenderUserData(text string, v Values) (string, error) {
	if text == "" {
		text = DefaultUserData
	}
	out, err := RenderTemplate(nameUserData, text, v)
	if err != nil {
		return "", err
	}
	if err := CheckUserData(out); err != nil {
		return "", err
	}
	return withAccount(out, v), nil
}

// Validate checks a user-data template as far as that goes without the values
// of a machine: it parses, and what stands outside of actions is a document
// that cloud-init takes. A template without actions is checked whole.
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

// ValidateNetworkConfig is Validate for a network-config template.
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

// Parameters lists the names that a template takes from .Parameters without
// saying what to do in their absence, sorted; nil when it does not parse.
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

// headerOf tells user-data's kind by its beginning, as cloud-init does.
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
	return &ContentError{nameUserData, 1, `cloud-init would ignore this: it must begin with "#cloud-config" (or "#!", ` +
		`"## template: jinja", "#cloud-config-archive", "#cloud-boothook", "#include" or a MIME multipart header) in its first line`}
}

// CheckUserData checks rendered user-data. The error is a *ContentError.
func CheckUserData(text string) error {
	if len(text) > maxUserData {
		return &ContentError{nameUserData, 0, fmt.Sprintf("%d bytes are more than %d", len(text), maxUserData)}
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
	reservedPhoneHome = "phone_home is the lab's: the server knows by it that the machine is ready and which SSH host keys it has; " +
		"take it out (a runcmd can report elsewhere)"
	reservedVendorData = "vendor_data must not be disabled: the lab's account and its ready report come by it; take it out"
)

func checkConfig(config map[string]any) error {
	if _, there := config["phone_home"]; there {
		return &ContentError{nameUserData, 0, reservedPhoneHome}
	}
	if vendor, there := config["vendor_data"]; there {
		settings, ok := vendor.(map[string]any)
		enabled, given := settings["enabled"]
		if !ok || given && enabled != true && !slices.Contains([]string{"true", "True", "on", "yes", "1"}, fmt.Sprint(enabled)) {
			return &ContentError{nameUserData, 0, reservedVendorData}
		}
	}
	if modules, there := config["cloud_final_modules"]; there {
		text := fmt.Sprint(modules)
		if !strings.Contains(text, "phone-home") && !strings.Contains(text, "phone_home") {
			return &ContentError{nameUserData, 0, "cloud_final_modules lacks phone-home, by which the server knows that the machine is ready; add it"}
		}
	}
	return nil
}

var (
	phoneHomeLine = regexp.MustCompile(`(?m)^[ \t-]*"?phone_home"?[ \t]*:`)
	usersLine     = regexp.MustCompile(`(?m)^users[ \t]*:`)
)

// checkKeys looks for what is refused in text that is no YAML by itself: in
// scripts it would be unusual, in archives, jinja and MIME parts it counts.
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
		e := &ContentError{Document: document, Message: "no valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
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
		return nil, &ContentError{document, root.Line, "this is no mapping of keys to values"}
	}
	out := map[string]any{}
	if err := root.Decode(&out); err != nil {
		return nil, &ContentError{document, root.Line, err.Error()}
	}
	return out, nil
}

// checkFields refuses fields of Values that do not exist, where they are taken
// from the top of the data and so can be told without it.
func checkFields(name string, tree *parse.Tree) error {
	var err error
	eachField(tree, func(ident []string, line int) {
		if err == nil && !knownFields[ident[0]] {
			err = &TemplateError{Template: name, Line: line, Missing: ident[0], Err: errors.New("no such value")}
		}
	})
	return err
}

// eachField calls visit with every .A.B of the tree whose dot is certainly the
// data itself: those outside of range and with.
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
		// A place of another form leaves the line unknown.
		_, _ = fmt.Sscan(parts[len(parts)-2], &line)
	}
	return line
}
