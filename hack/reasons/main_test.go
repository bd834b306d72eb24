// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const api = `package api

// Reasons of a spec.
//
//reasons:table spec
const (
	// ReasonInvalid means that a field is
	// invalid: a|b.
	// Remedy: correct the
	// field.
	ReasonInvalid = "Invalid"
	// ReasonValid means that netbootd takes the spec.
	ReasonValid = "Valid"
)

const Other = "Other"
`

func TestRender(t *testing.T) {
	reasons, err := parse("api.go", []byte(api))
	if err != nil {
		t.Fatal(err)
	}
	const doc = `# Reasons
<!-- generated: reasons spec -->
stale
<!-- end generated -->
between
<!-- generated: reasons normal -->
<!-- end generated -->
`
	const want = `# Reasons
<!-- generated: reasons spec -->
| Reason | Meaning | Remedy |
| --- | --- | --- |
| ` + "`Invalid`" + ` | A field is invalid: a\|b. | Correct the field. |
<!-- end generated -->
between
<!-- generated: reasons normal -->
| Reason | Meaning |
| --- | --- |
| ` + "`Valid`" + ` | netbootd takes the spec. |
<!-- end generated -->
`
	got, err := render([]byte(doc), reasons)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("render (-want +got):\n%s", diff)
	}
	again, err := render(got, reasons)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(again)); diff != "" {
		t.Errorf("render of its own output (-want +got):\n%s", diff)
	}
}

func TestRenderReportsMismatches(t *testing.T) {
	reasons, err := parse("api.go", []byte(api))
	if err != nil {
		t.Fatal(err)
	}
	const doc = "<!-- generated: reasons spec -->\n<!-- end generated -->\n<!-- generated: reasons x -->\n<!-- end generated -->\n"
	_, err = render([]byte(doc), reasons)
	for _, want := range []string{`no reason belongs to the table "x"`, `reason Valid belongs to the table "normal"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("render: got error %v, want one that contains %q", err, want)
		}
	}
}

func TestParseReportsMalformedReasons(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"no comment":   {"//reasons:table a\nconst ReasonX = \"X\"", `begin its comment with "ReasonX means that"`},
		"other form":   {"//reasons:table a\nconst (\n// ReasonX: bad.\nReasonX = \"X\"\n)", `begin its comment with "ReasonX means that"`},
		"no directive": {"const (\n// ReasonX means that a.\nReasonX = \"X\"\n)", "has no directive reasons:table"},
		"no literal":   {"//reasons:table a\nconst (\n// ReasonX means that a.\nReasonX = y\n)", "not a string literal"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse("x.go", []byte("package x\n\n"+c.source+"\n"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("parse: got error %v, want one that contains %q", err, c.want)
			}
		})
	}
}

// TestTroubleshootingIsCurrent fails like "make check" when docs/troubleshooting.md is stale.
func TestTroubleshootingIsCurrent(t *testing.T) {
	doc := filepath.Join("..", "..", "docs", "troubleshooting.md")
	out := filepath.Join(t.TempDir(), "troubleshooting.md")
	if err := run(filepath.Join("..", "..", "api", "v1alpha1"), doc, out); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/troubleshooting.md is not current; run \"make generate\" (-want +got):\n%s", diff)
	}
}
