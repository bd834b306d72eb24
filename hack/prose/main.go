// SPDX-License-Identifier: Apache-2.0

// Command prose reports words that do not belong in the project's English.
//
//	go run ./hack/prose
//
// It checks the files that git tracks: comments and string literals of Go,
// Markdown, shell scripts, YAML, the Makefile and Dockerfiles. Each finding is
// printed as "file:line: word: text"; the exit status is 1 if there is one.
// The words are in the table rules, the exceptions in the table allowed.
package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rules are the expressions to avoid. A space matches any white space, so that
// an expression is found across lines.
var rules = compile(
	`says|said|tells|told`,
	`speaks? of|spoke of|speaking of`,
	`has to say|have to say`,
	`anew`,
	`go on|goes on|going on|went on|gone on`,
	`comes to|came to`,
	`nobody|somebody|anybody|whoever`,
	`brings? about|bringing about|brought about`,
	`what there is|what there was`,
	`what (?:is|was|are|were) to be`,
	`what (?:became|becomes) of`,
	`for people`,
	`thereof|therein|thereby|whereof|wherein|hereby`,
	`in vain`,
	`as the case may be`,
	`stands? still|stood still`,
	`lets? go of`,
)

// isNo matches "is not a X" written as "is no X"; "there is no X" and
// comparisons such as "is no longer" are good English.
var (
	isNo     = regexp.MustCompile(`(?i)\b(there\s+(?:\w+\s+)?)?(?:is|are)\s+no\s+(\w+)`)
	compared = regexp.MustCompile(`(?i)^(?:different|fewer|less|longer|more|such|worse|` +
		`(?:bett|bigg|earli|fast|high|larg|lat|low|new|old|slow|small)er)$`)
)

func compile(patterns ...string) []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, p := range patterns {
		out = append(out, regexp.MustCompile(`(?i)\b(?:`+strings.ReplaceAll(p, " ", `\s+`)+`)\b`))
	}
	return out
}

// exception allows the findings in files whose path matches file and whose
// line matches text.
type exception struct {
	file   string // regular expression
	text   string // regular expression
	reason string
}

// allowed are the exceptions, at most maxAllowed. TestTree requires that each
// is in use.
var allowed = []exception{
	{`^hack/prose/`, ``, "lists the words"},
	{`^images/guest/.*\.sh$`, ``, "recipes whose digest names the guest images; change them with the next image"},
}

const maxAllowed = 20

// piece is a run of prose that starts at a line of a file.
type piece struct {
	line int
	text string
}

type finding struct {
	file string
	line int
	word string
	text string
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s: %s", f.file, f.line, f.word, f.text) }

func main() {
	findings, _, err := tree(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(2)
	}
	for _, f := range findings {
		fmt.Println(f)
	}
	if len(findings) > 0 {
		fmt.Fprintf(os.Stderr, "prose: %d findings; see CONTRIBUTING.md\n", len(findings))
		os.Exit(1)
	}
}

// tree checks the files that git tracks below root and returns the findings
// that no exception covers, and how often each exception was used.
func tree(root string) (findings []finding, used []int, err error) {
	command := exec.Command("git", "ls-files", "-z")
	command.Dir = root
	list, err := command.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("listing tracked files: %w", err)
	}
	used = make([]int, len(allowed))
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		if strings.Contains("/"+name, "/testdata/") {
			continue // captured logs and golden files
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, but not yet committed
		}
		if err != nil {
			return nil, nil, err
		}
		found, err := check(name, content)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			if i := slices.IndexFunc(allowed, func(e exception) bool { return e.covers(f) }); i >= 0 {
				used[i]++
				continue
			}
			findings = append(findings, f)
		}
	}
	return findings, used, nil
}

func (e exception) covers(f finding) bool {
	return regexp.MustCompile(e.file).MatchString(f.file) && regexp.MustCompile(e.text).MatchString(f.text)
}

// check returns the findings in one file, in order of lines.
func check(name string, content []byte) ([]finding, error) {
	var pieces []piece
	switch base := path.Base(name); {
	case path.Ext(name) == ".go":
		var err error
		if pieces, err = goProse(name, content); err != nil {
			return nil, err
		}
	case path.Ext(name) == ".md":
		pieces = []piece{{1, codeSpan.ReplaceAllString(string(content), "``")}}
	case slices.Contains([]string{".sh", ".yaml", ".yml", ".toml", ".service"}, path.Ext(name)),
		base == "Makefile", base == "Dockerfile", bytes.HasPrefix(content, []byte("#!")):
		pieces = []piece{{1, marker.ReplaceAllString(string(content), " ")}}
	}
	var findings []finding
	for _, p := range pieces {
		findings = append(findings, search(name, p)...)
	}
	slices.SortFunc(findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.word, b.word))
	})
	return findings, nil
}

var (
	codeSpan = regexp.MustCompile("`[^`\n]+`")
	marker   = regexp.MustCompile(`(?m)^[ \t]*#+`)
	url      = regexp.MustCompile(`https?://[^\s)"']+`)
)

func search(name string, p piece) (findings []finding) {
	text := url.ReplaceAllString(p.text, "URL")
	lines := strings.Split(text, "\n")
	add := func(start, end int) {
		n := strings.Count(text[:start], "\n")
		findings = append(findings, finding{
			file: name,
			line: p.line + n,
			word: strings.ToLower(strings.Join(strings.Fields(text[start:end]), " ")),
			text: strings.TrimSpace(lines[n]),
		})
	}
	for _, rule := range rules {
		for _, m := range rule.FindAllStringIndex(text, -1) {
			add(m[0], m[1])
		}
	}
	for _, m := range isNo.FindAllStringSubmatchIndex(text, -1) {
		if m[2] < 0 && !compared.MatchString(text[m[4]:m[5]]) {
			add(m[0], m[1])
		}
	}
	return findings
}

// goProse returns the comments and string literals of a Go file, without
// import paths and struct tags.
func goProse(name string, content []byte) ([]piece, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for _, group := range file.Comments {
		var lines []string
		for _, c := range group.List {
			lines = append(lines, strings.TrimPrefix(c.Text, "//"))
		}
		pieces = append(pieces, piece{fset.Position(group.Pos()).Line, strings.Join(lines, "\n")})
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			text, err := strconv.Unquote(n.Value)
			if err == nil && n.Value[0] == '"' {
				text = strings.ReplaceAll(text, "\n", " ") // the literal is one line
			}
			pieces = append(pieces, piece{fset.Position(n.Pos()).Line, text})
		}
		return true
	})
	return pieces, nil
}
