// SPDX-License-Identifier: Apache-2.0

// Command reasons writes the tables of docs/troubleshooting.md from the
// comments of the Reason constants in api/v1alpha1.
//
//	reasons API_DIR IN OUT
//
// It copies the Markdown file IN to OUT and replaces what is between
// "<!-- generated: reasons NAME -->" and "<!-- end generated -->" by the table
// NAME. Each constant has a comment of the form
//
//	// ReasonX means that <meaning>
//	// Remedy: <what the user can do>
//
// and belongs to the table that the directive reasons:table of its const block
// names. Reasons without a remedy are listed in the table "normal".
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const normal = "normal"

// reason is a row of a table.
type reason struct {
	table   string
	value   string
	meaning string
	remedy  string
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: reasons API_DIR IN OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "reasons:", err)
		os.Exit(1)
	}
}

func run(dir, in, out string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	var reasons []reason
	for _, name := range names {
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		found, err := parse(name, source)
		if err != nil {
			return err
		}
		reasons = append(reasons, found...)
	}
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	text, err = render(text, reasons)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	return os.WriteFile(out, text, 0o644)
}

// parse returns the Reason constants of a Go file in their order. It reports
// every constant whose comment or directive is missing or malformed.
func parse(name string, source []byte) ([]reason, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var reasons []reason
	var problems []error
	for _, decl := range file.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		for _, spec := range block.Specs {
			spec := spec.(*ast.ValueSpec)
			if !strings.HasPrefix(spec.Names[0].Name, "Reason") {
				continue
			}
			r, err := parseReason(spec)
			r.table = tableName(block.Doc)
			if err == nil && r.table == "" {
				err = errors.New("the const block has no directive reasons:table")
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %w", fset.Position(spec.Pos()), spec.Names[0].Name, err))
				continue
			}
			if r.remedy == "" {
				r.table = normal
			}
			reasons = append(reasons, r)
		}
	}
	return reasons, errors.Join(problems...)
}

// tableName returns the argument of the directive reasons:table, or "".
func tableName(doc *ast.CommentGroup) string {
	if doc == nil {
		return ""
	}
	for _, line := range doc.List {
		if name, ok := strings.CutPrefix(line.Text, "//reasons:table "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

func parseReason(spec *ast.ValueSpec) (reason, error) {
	var r reason
	if len(spec.Names) != 1 || len(spec.Values) != 1 {
		return r, errors.New("declare one constant with one value")
	}
	literal, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return r, errors.New("the value is not a string literal")
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		return r, err
	}
	meaning, remedy, _ := strings.Cut(spec.Doc.Text(), "\nRemedy:")
	meaning, ok = strings.CutPrefix(strings.Join(strings.Fields(meaning), " "), spec.Names[0].Name+" means that ")
	if !ok {
		return r, fmt.Errorf("begin its comment with %q", spec.Names[0].Name+" means that")
	}
	r.value = value
	r.meaning = capitalize(meaning)
	r.remedy = capitalize(strings.Join(strings.Fields(remedy), " "))
	return r, nil
}

// lower lists the names that keep their case at the start of a sentence.
var lower = []string{"cloud-init", "iPXE", "netbootd", "systemd"}

func capitalize(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	word, _, _ := strings.Cut(s, " ")
	if size == 0 || slices.Contains(lower, word) {
		return s
	}
	return string(unicode.ToUpper(first)) + s[size:]
}

var section = regexp.MustCompile(`(?s)(<!-- generated: reasons (\S+) -->\n).*?(<!-- end generated -->\n)`)

// render returns text with its tables replaced. Every reason must have a
// table in text, and every table a reason.
func render(text []byte, reasons []reason) ([]byte, error) {
	var problems []error
	var rendered []string
	text = section.ReplaceAllFunc(text, func(old []byte) []byte {
		m := section.FindSubmatch(old)
		name := string(m[2])
		rendered = append(rendered, name)
		table := renderTable(name, reasons)
		if table == "" {
			problems = append(problems, fmt.Errorf("no reason belongs to the table %q", name))
		}
		return slices.Concat(m[1], []byte(table), m[3])
	})
	for _, r := range reasons {
		if !slices.Contains(rendered, r.table) {
			problems = append(problems, fmt.Errorf("reason %s belongs to the table %q, for which there is no marker", r.value, r.table))
		}
	}
	return text, errors.Join(problems...)
}

func renderTable(name string, reasons []reason) string {
	var b strings.Builder
	for _, r := range reasons {
		if r.table != name {
			continue
		}
		if b.Len() == 0 && name == normal {
			b.WriteString("| Reason | Meaning |\n| --- | --- |\n")
		} else if b.Len() == 0 {
			b.WriteString("| Reason | Meaning | Remedy |\n| --- | --- | --- |\n")
		}
		cells := []string{"`" + r.value + "`", r.meaning}
		if name != normal {
			cells = append(cells, r.remedy)
		}
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return b.String()
}
