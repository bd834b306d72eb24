// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Limits on the size of functions and files, in lines, tests and generated files
// aside. They are what the tree had when they were introduced: code may become
// simpler, not longer.
const (
	maxFunction       = 76
	maxFunctionP95    = 34
	maxFunctionMedian = 11
	longFile          = 300
	maxLongFiles      = 22
)

// TestSizes asserts the limits, and prints what they are compared with.
func TestSizes(t *testing.T) {
	var functions []int
	var long []string
	for _, path := range sourceFiles(t) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\n// Code generated ")) || bytes.HasPrefix(text, []byte("// Code generated ")) {
			continue
		}
		if lines := bytes.Count(text, []byte("\n")); lines > longFile {
			long = append(long, path)
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
			functions = append(functions, lines)
			if lines > maxFunction {
				t.Errorf("%s: function %s has %d lines, want at most %d", path, f.Name.Name, lines, maxFunction)
			}
		}
	}
	slices.Sort(functions)
	median := functions[len(functions)/2]
	p95 := functions[len(functions)*95/100]
	t.Logf("%d functions: median %d, 95th percentile %d, longest %d lines; %d files over %d lines",
		len(functions), median, p95, functions[len(functions)-1], len(long), longFile)
	if median > maxFunctionMedian {
		t.Errorf("functions: got median %d lines, want at most %d", median, maxFunctionMedian)
	}
	if p95 > maxFunctionP95 {
		t.Errorf("functions: got 95th percentile %d lines, want at most %d", p95, maxFunctionP95)
	}
	if len(long) > maxLongFiles {
		t.Errorf("%d files have more than %d lines, want at most %d:\n%s", len(long), longFile, maxLongFiles, strings.Join(long, "\n"))
	}
}

// sourceFiles are the tracked Go files, tests aside.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "*.go")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the tracked files: %v", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return strings.HasSuffix(path, "_test.go") || err != nil
	})
}
