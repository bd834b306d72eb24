// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"go.yaml.in/yaml/v3"
)

// Limits of one rendering.
const (
	maxTemplate = 256 << 10
	maxOutput   = 1 << 20
	maxSteps    = 20_000
	maxTime     = 5 * time.Second
)

// TemplateError says which template fails, where and why.
type TemplateError struct {
	// Template is its name: "user-data", "network-config", "ipxe".
	Template string
	// Line counts from 1; 0 when the error is not at one place.
	Line int
	// Missing is the value that the template asks for and does not get.
	Missing string
	Err     error
}

func (e *TemplateError) Error() string {
	where := e.Template + " template"
	if e.Line > 0 {
		where += ", line " + strconv.Itoa(e.Line)
	}
	if e.Missing != "" {
		return fmt.Sprintf("%s: there is no value %q: set it or ask for it with index and default", where, e.Missing)
	}
	return where + ": " + e.Err.Error()
}

func (e *TemplateError) Unwrap() error { return e.Err }

// ErrTooLarge and ErrTooLong end a rendering that goes on too far.
var (
	ErrTooLarge = fmt.Errorf("the result is larger than %d bytes", maxOutput)
	ErrTooLong  = errors.New("the template runs on for too long")
)

// RenderTemplate renders text, a text/template named name, with data and the
// functions of this package: toJson, toYaml, b64enc, indent, nindent, quote,
// default, join, trim, lower, upper. An error is a *TemplateError.
func RenderTemplate(name, text string, data any) (string, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return "", err
	}
	out := &limitedWriter{deadline: time.Now().Add(maxTime)}
	if err := t.Execute(out, data); err != nil {
		return "", templateError(name, err)
	}
	return out.buf.String(), nil
}

func parseTemplate(name, text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, &TemplateError{Template: name, Err: fmt.Errorf("%d bytes are more than %d", len(text), maxTemplate)}
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, templateError(name, err)
	}
	for _, part := range t.Templates() {
		if part.Tree != nil {
			instrument(part.Tree.Root)
		}
	}
	return t, nil
}

// instrument puts an empty text at the start of every template's and every
// range's body. Executing it calls the writer, which counts: so a loop without
// output ends as well.
func instrument(list *parse.ListNode) {
	if list == nil {
		return
	}
	walk(list, func(n parse.Node) {
		if r, ok := n.(*parse.RangeNode); ok {
			r.List.Nodes = slices.Insert(r.List.Nodes, 0, tick())
		}
	})
	list.Nodes = slices.Insert(list.Nodes, 0, tick())
}

func tick() parse.Node { return &parse.TextNode{NodeType: parse.NodeText} }

// walk calls visit for every node that holds lists of nodes, and pipelines.
func walk(list *parse.ListNode, visit func(parse.Node)) {
	if list == nil {
		return
	}
	branch := func(b *parse.BranchNode) {
		visit(b.Pipe)
		walk(b.List, visit)
		walk(b.ElseList, visit)
	}
	for _, n := range slices.Clone(list.Nodes) {
		visit(n)
		switch n := n.(type) {
		case *parse.RangeNode:
			branch(&n.BranchNode)
		case *parse.IfNode:
			branch(&n.BranchNode)
		case *parse.WithNode:
			branch(&n.BranchNode)
		}
	}
}

type limitedWriter struct {
	buf      bytes.Buffer
	steps    int
	deadline time.Time
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		w.steps++
	}
	if w.steps > maxSteps || w.steps%64 == 0 && time.Now().After(w.deadline) {
		return 0, ErrTooLong
	}
	if w.buf.Len()+len(p) > maxOutput {
		return 0, ErrTooLarge
	}
	return w.buf.Write(p)
}

var (
	// text/template tells the place and the missing name in its text only.
	placePattern   = regexp.MustCompile(`^template: [^:]*:(\d+)(?::\d+)?: `)
	missingPattern = regexp.MustCompile(`map has no entry for key "([^"]*)"|can't evaluate field (\S+) in type`)
	openedPattern  = regexp.MustCompile(` started at [^:]*:(\d+)$`)
	contextPattern = regexp.MustCompile(`^executing "[^"]*" at <.*>: `)
)

func templateError(name string, err error) *TemplateError {
	e := &TemplateError{Template: name, Err: err}
	text := err.Error()
	if m := placePattern.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = contextPattern.ReplaceAllString(text[len(m[0]):], "")
	}
	if m := openedPattern.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = strings.TrimSuffix(text, m[0])
	}
	if m := missingPattern.FindStringSubmatch(text); m != nil {
		e.Missing = m[1] + m[2]
	}
	switch {
	case errors.Is(err, ErrTooLarge):
		e.Err = ErrTooLarge
	case errors.Is(err, ErrTooLong):
		e.Err = ErrTooLong
	default:
		e.Err = errors.New(text)
	}
	return e
}

// functions are all that templates can call besides text/template's own. Those
// that make text are bounded, and printf and its like are replaced by bounded
// ones, because a loop could double a variable without writing anything.
var functions = template.FuncMap{
	"toJson": func(v any) (string, error) {
		raw, err := json.Marshal(v)
		return bounded(string(raw), err)
	},
	"toYaml": func(v any) (string, error) {
		raw, err := yaml.Marshal(v)
		return bounded(strings.TrimSuffix(string(raw), "\n"), err)
	},
	"b64enc":   func(s string) (string, error) { return bounded(base64.StdEncoding.EncodeToString([]byte(s)), nil) },
	"indent":   indent,
	"nindent":  func(n int, s string) (string, error) { s, err := indent(n, s); return "\n" + s, err },
	"quote":    func(v any) (string, error) { return bounded(quote(fmt.Sprint(v)), nil) },
	"default":  fallback,
	"join":     func(sep string, items []string) (string, error) { return bounded(strings.Join(items, sep), nil) },
	"trim":     strings.TrimSpace,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"print":    func(args ...any) (string, error) { return bounded(fmt.Sprint(args...), nil) },
	"println":  func(args ...any) (string, error) { return bounded(fmt.Sprintln(args...), nil) },
	"printf":   printf,
	"html":     func(args ...any) (string, error) { return bounded(template.HTMLEscaper(args...), nil) },
	"js":       func(args ...any) (string, error) { return bounded(template.JSEscaper(args...), nil) },
	"urlquery": func(args ...any) (string, error) { return bounded(template.URLQueryEscaper(args...), nil) },
}

func bounded(s string, err error) (string, error) {
	if err == nil && len(s) > maxOutput {
		return "", ErrTooLarge
	}
	return s, err
}

// quote makes a double-quoted string that both YAML and JSON read alike.
func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("a string always marshals: " + err.Error())
	}
	return string(raw)
}

func indent(n int, s string) (string, error) {
	lines := strings.Count(s, "\n") + 1
	if n < 0 || n > 1000 || len(s)+n*lines > maxOutput {
		return "", ErrTooLarge
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
}

// fallback returns value, or other when value is absent or its type's zero.
func fallback(other any, value ...any) any {
	if len(value) == 0 || value[0] == nil || reflect.ValueOf(value[0]).IsZero() {
		return other
	}
	return value[0]
}

var widthPattern = regexp.MustCompile(`%[^a-zA-Z%]*(\*|\d{5})`)

func printf(format string, args ...any) (string, error) {
	if widthPattern.MatchString(format) {
		return "", ErrTooLarge
	}
	return bounded(fmt.Sprintf(format, args...), nil)
}
