// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// well are the reasons of what is as it should be, or is on its way there in a
// phase of its own: nobody looks for what to do about them.
var well = []string{
	ReasonReady, ReasonValid, ReasonDeleting, ReasonAvailable, ReasonRunning, ReasonStopped, ReasonUpToDate,
	ReasonConnected, ReasonServing, ReasonNetworkBoot, ReasonInstalling, ReasonBooting, ReasonInstalled, ReasonPoweredOff,
}

// TestTroubleshootingKnowsEveryReason compares the tables of reasons with the
// API's constants, both ways.
func TestTroubleshootingKnowsEveryReason(t *testing.T) {
	declared, documented := declaredReasons(t), documentedReasons(t)
	for _, reason := range declared {
		if told, fine := slices.Contains(documented, reason), slices.Contains(well, reason); told == fine {
			t.Errorf("%s: in docs/troubleshooting.md %t, nothing to do about it %t", reason, told, fine)
		}
	}
	for _, reason := range documented {
		if !slices.Contains(declared, reason) {
			t.Errorf("docs/troubleshooting.md tells of %s, which the API does not have", reason)
		}
	}
}

func declaredReasons(t *testing.T) (reasons []string) {
	t.Helper()
	files, err := filepath.Glob("*_types.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
				value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons = append(reasons, value)
			}
			return true
		})
	}
	return reasons
}

// documentedReasons are those in the first column of a table; a row may have
// several.
func documentedReasons(t *testing.T) (reasons []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	row, reason := regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|"), regexp.MustCompile("`([A-Z][A-Za-z]+)`")
	for _, cells := range row.FindAllStringSubmatch(string(text), -1) {
		for _, m := range reason.FindAllStringSubmatch(cells[1], -1) {
			reasons = append(reasons, m[1])
		}
	}
	return reasons
}
