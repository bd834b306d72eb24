// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template/parse"
)

// Validate checks a user-data template without a machine's values: the template
// must parse, refer to existing fields and begin with a header that cloud-init
// accepts. A template that renders for every machine alike, but for its values, is
// checked as CheckUserData does, with the values of a sample machine. The error is a
// *TemplateError or a *ContentError, or that of ctx.
func Validate(ctx context.Context, text string) error {
	out, sampled, err := validate(ctx, nameUserData, text)
	switch {
	case err != nil || text == "":
		return err
	case sampled:
		return CheckUserData(out)
	case !strings.HasPrefix(text, "{{") && headerOf(text) == headerNone:
		return errHeader()
	}
	return checkKeys(text)
}

// ValidateNetworkConfig checks a network-config template as Validate does.
func ValidateNetworkConfig(ctx context.Context, text string) error {
	out, sampled, err := validate(ctx, nameNetworkConfig, text)
	if err != nil || !sampled {
		return err
	}
	_, err = networkConfigText(out)
	return err
}

// Warnings returns what cloud-init reads otherwise than it looks in a valid user-data
// template: keys that occur twice, and texts that YAML 1.1 takes for numbers or booleans.
// It returns nil for what is rendered differently for each machine.
func Warnings(ctx context.Context, text string) []string {
	out, sampled, err := validate(ctx, nameUserData, text)
	if err != nil || !sampled || headerOf(out) != headerConfig {
		return nil
	}
	root, err := parseYAML(nameUserData, out)
	if err != nil || root == nil {
		return nil
	}
	w := &warner{document: nameUserData}
	w.walk(root)
	return w.found
}

// validate checks a template's syntax and fields, and renders it if that is possible
// without a machine.
func validate(ctx context.Context, name, text string) (out string, sampled bool, err error) {
	if text == "" {
		return "", false, nil
	}
	t, err := parseTemplate(name, text)
	if err != nil {
		return "", false, err
	}
	if err := checkFields(name, t.Tree); err != nil {
		return "", false, err
	}
	if !strings.Contains(text, "{{") {
		return text, true, nil
	}
	if !isUniform(t) || strings.Contains(text, ".Parameters") {
		return "", false, nil
	}
	out, err = render(sampleMeter(ctx), name, text, sampleValues())
	if err != nil {
		// Another machine may have what the sample lacks, such as a second DNS server, and
		// the limits of a rendering are higher. It is checked with each target's values.
		return "", false, ctx.Err()
	}
	return out, true, nil
}

// isUniform reports whether a template consists of text and values only, so that machines
// differ in the values alone.
func isUniform(t *parsedTemplate) bool {
	for _, part := range t.Templates() {
		if part.Tree == nil || part.Tree.Root == nil {
			continue
		}
		for _, n := range part.Tree.Root.Nodes {
			switch n.(type) {
			case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
			default:
				return false
			}
		}
	}
	return true
}

// sampleValues are valid values of a machine. Its MAC address is the one that YAML can
// misread.
func sampleValues() Values {
	return Values{
		Name: "sample", Hostname: "sample", InstanceID: "pxelab-sample-1", Architecture: "x86_64",
		MAC: "52:54:00:12:34:56", Address: "10.88.0.10", PrefixLength: 20, Gateway: "10.88.0.1", DNS: []string{"10.88.0.1"},
		Domain: "lab.internal", MTU: 1500, ServerAddress: "10.88.0.1", ServerURL: "http://10.88.0.1/",
		BaseURL: "http://10.88.0.1/m/sample/", SSHUser: "lab", SSHAuthorizedKeys: []string{"ssh-ed25519 AAAA sample"},
	}
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

// checkFields refuses references to fields that Values does not have, as far as
// that can be decided without executing the template.
func checkFields(name string, tree *parse.Tree) error {
	var err error
	eachField(tree, func(ident []string, line int) {
		if err == nil && !knownFields[ident[0]] {
			err = &TemplateError{Template: name, Line: line, Missing: ident[0], Err: errors.New("no such value"), Hint: literalHint}
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
