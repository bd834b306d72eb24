// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		want          []string // "line: word"
	}{
		"go comment": {"a.go", "package a\n\n// A says why.\nvar A int // it is told\n", []string{"3: says", "4: told"}},
		"go comment across lines": {"a.go", "package a\n\n// A goes\n// on anew.\nvar A int\n",
			[]string{"3: goes on", "4: anew"}},
		"go block comment": {"a.go", "package a\n\n/*\nSomebody did.\n*/\n", []string{"4: somebody"}},
		"go strings":       {"a.go", "package a\n\nvar A = \"x\\nsaid\"\nvar B = `x\nsaid`\n", []string{"3: said", "5: said"}},
		"go code, imports and tags": {"a.go", `package a

import said "example.com/said"

type nobody struct {
	told int ` + "`json:\"told\"`" + `
}

var _ = said.X
`, nil},
		"case":                        {"a.md", "Nobody WHOEVER\n", []string{"1: nobody", "1: whoever"}},
		"word boundaries":             {"a.md", "saids foretold essays goonish\n", nil},
		"code spans and URLs":         {"a.md", "`says` and https://example.com/nobody/said, `is no x`\n", nil},
		"is no":                       {"a.md", "This is no file.\nThey are no\nfiles.\n", []string{"1: is no file", "2: are no files"}},
		"there is no":                 {"a.md", "There is no x; there are no y. A is no longer, is no bigger, is no such.\n", nil},
		"shell":                       {"a.sh", "# it goes\n  # on\necho \"nobody\" # said\n", []string{"1: goes on", "3: nobody", "3: said"}},
		"script without an extension": {"bin/run", "#!/bin/sh\necho told\n", []string{"2: told"}},
		"yaml":                        {"a.yaml", "# anew\ndescription: |-\n  for\n  people\n", []string{"1: anew", "3: for people"}},
		"makefile":                    {"Makefile", "all: ## What there is\n", []string{"1: what there is"}},
		"dockerfile":                  {"x/Dockerfile", "# in vain\n", []string{"1: in vain"}},
		"other files":                 {"a.json", `{"a": "nobody said"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := check(c.file, []byte(c.content))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range findings {
				got = append(got, fmt.Sprintf("%d: %s", f.line, f.word))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("check(%s) (-want +got):\n%s", c.file, diff)
			}
		})
	}
}

func TestFindingString(t *testing.T) {
	findings, err := check("dir/a.md", []byte("Fine.\n  It said so.\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(findings), "[dir/a.md:2: said: It said so.]"; got != want {
		t.Errorf("findings are %q, want %q", got, want)
	}
}

func TestAllowed(t *testing.T) {
	if len(allowed) > maxAllowed {
		t.Errorf("got %d exceptions, want at most %d: reword the text instead", len(allowed), maxAllowed)
	}
	for _, e := range allowed {
		if e.reason == "" {
			t.Errorf("exception %q, %q: got no reason, want one", e.file, e.text)
		}
	}
}

// TestTree checks every file of the repository.
func TestTree(t *testing.T) {
	findings, used, err := tree(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
	for i, e := range allowed {
		if used[i] == 0 {
			t.Errorf("exception %q, %q (%s): got no use, want one; remove it", e.file, e.text, e.reason)
		}
	}
}
