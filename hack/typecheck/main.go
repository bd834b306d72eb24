// SPDX-License-Identifier: Apache-2.0

// Command typecheck type-checks packages, function bodies included, and all
// that they import, for another system:
//
//	GOOS=darwin GOARCH=arm64 typecheck PACKAGE...
//
// in the module of the working directory. It says what a compiler would say of
// such a system's files, in seconds: to compile Kubernetes for one more system
// takes minutes. It does not link.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"

	"golang.org/x/tools/go/packages"
)

func main() {
	checked, err := check(".", os.Environ(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	fmt.Printf("typecheck: %d packages are right for %s/%s\n", checked, os.Getenv("GOOS"), os.Getenv("GOARCH"))
}

// everything is all that it takes to check function bodies in each package.
const everything = packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
	packages.NeedDeps | packages.NeedTypes | packages.NeedTypesSizes | packages.NeedSyntax | packages.NeedModule

// check tells how many packages the patterns and their imports are, or all that
// is wrong with them.
func check(dir string, env, patterns []string) (checked int, err error) {
	found, err := packages.Load(&packages.Config{
		Mode: everything, Dir: dir, Env: env,
		ParseFile: func(files *token.FileSet, name string, text []byte) (*ast.File, error) {
			return parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		},
	}, patterns...)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("no packages match %q in %s", patterns, dir)
	}
	var wrong []error
	packages.Visit(found, nil, func(p *packages.Package) {
		checked++
		for _, e := range p.Errors {
			wrong = append(wrong, fmt.Errorf("%s: %w", p.PkgPath, e))
		}
	})
	return checked, errors.Join(wrong...)
}
