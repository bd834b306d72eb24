// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"unicode/utf8"
)

// maxTemplate is the limit of a template's size in bytes.
const maxTemplate = 256 << 10

// TemplateError is an error in parsing or executing a template.
type TemplateError struct {
	// Template is the template's name: "user-data", "network-config", "ipxe".
	Template string
	// Line counts from 1; 0 if the error has no line.
	Line int
	// Missing is the name of the value that does not exist; empty for other
	// errors.
	Missing string
	Err     error
	// Hint is how to avoid the error; empty for none.
	Hint string
}

// Hints for text that was not written for this template, such as Jinja or the formats of
// docker.
const (
	literalHint = `; to write "{{" itself, as for Jinja or docker, put it in an action: {{ "{{" }}`
	dashHint    = `; a name with a dash is written as {{ index .Parameters "the-name" }}`
)

func (e *TemplateError) Error() string {
	where := e.Template + " template"
	if e.Line > 0 {
		where += ", line " + strconv.Itoa(e.Line)
	}
	if e.Missing != "" {
		return fmt.Sprintf("%s: value %q does not exist; set it, or use index with default", where, e.Missing) + e.Hint
	}
	return where + ": " + e.Err.Error() + e.Hint
}

func (e *TemplateError) Unwrap() error { return e.Err }

// RenderTemplate renders text, a text/template named name, with data and the
// functions of this package: toJson, toYaml, b64enc, indent, nindent, quote,
// default, join, trim, lower, upper. The error is a *TemplateError. It wraps a
// *LimitError if the rendering exceeded its limits, and ctx's error if ctx was
// cancelled. Rendering runs in the caller's goroutine and has ended when
// RenderTemplate returns.
func RenderTemplate(ctx context.Context, name, text string, data any) (string, error) {
	return render(newMeter(ctx), name, text, data)
}

func render(m *meter, name, text string, data any) (string, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return "", err
	}
	m.ticks = t.ticks
	if err := t.Funcs(m.functions()).Execute(m, data); err != nil {
		return "", templateError(name, m.line, err)
	}
	out := m.out.String()
	if !utf8.ValidString(out) {
		return "", &TemplateError{Template: name, Line: lineOfInvalid(out), Err: errors.New("the result is not valid UTF-8")}
	}
	return out, nil
}

// lineOfInvalid returns the line of the first byte that is not UTF-8.
func lineOfInvalid(text string) int {
	line := 1
	for at, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[at:], string(utf8.RuneError)) {
			break
		}
		if r == '\n' {
			line++
		}
	}
	return line
}

// parsedTemplate is a template with the steps that its execution reports.
type parsedTemplate struct {
	*template.Template
	ticks map[*byte]tick
}

func parseTemplate(name, text string) (*parsedTemplate, error) {
	if len(text) > maxTemplate {
		return nil, &TemplateError{Template: name, Err: fmt.Errorf("has %d bytes, more than the limit of %d", len(text), maxTemplate)}
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(parseFunctions).Parse(text)
	if err != nil {
		e := templateError(name, 0, err)
		e.Hint = literalHint
		if dashPattern.MatchString(e.Err.Error()) {
			e.Hint = dashHint
		}
		return nil, e
	}
	i := newInstrumenter(text)
	for _, part := range t.Templates() {
		if part.Tree == nil {
			continue
		}
		if line, err := i.list(part.Tree.Root, bodySteps); err != nil {
			return nil, &TemplateError{Template: name, Line: line, Err: err}
		}
	}
	return &parsedTemplate{t, i.ticks}, nil
}

var (
	// text/template reports the location and the missing name only in its text.
	placePattern   = regexp.MustCompile(`^template: [^:]*:(\d+)(?::\d+)?: `)
	missingPattern = regexp.MustCompile(`map has no entry for key "([^"]*)"|can't evaluate field (\S+) in type`)
	openedPattern  = regexp.MustCompile(` started at [^:]*:(\d+)$`)
	dashPattern    = regexp.MustCompile(`bad character U\+002D '-'`)
	contextPattern = regexp.MustCompile(`^executing "[^"]*" at <.*>: `)
)

// templateError converts an error of text/template. line is the line that was
// executed, for errors without a location.
func templateError(name string, line int, err error) *TemplateError {
	e := &TemplateError{Template: name, Line: line, Err: err}
	text := err.Error()
	if m := placePattern.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = contextPattern.ReplaceAllString(text[len(m[0]):], "")
	}
	if m := openedPattern.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = strings.TrimSuffix(text, m[0])
	}
	var limit *LimitError
	switch {
	case errors.As(err, &limit):
		e.Err = limit
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Err = err
	default:
		if m := missingPattern.FindStringSubmatch(text); m != nil {
			e.Missing = m[1] + m[2]
		}
		e.Err = errors.New(text)
	}
	return e
}
