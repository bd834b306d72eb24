// SPDX-License-Identifier: Apache-2.0

// Command typecheck type-checks packages and all their imports, function bodies
// included, for another platform:
//
//	GOOS=darwin GOARCH=arm64 typecheck PACKAGE...
//
// It runs in the module of the working directory. It finds the compile errors in
// that platform's files within seconds; compiling Kubernetes for another platform
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
	fmt.Printf("typecheck: %d packages are correct for %s/%s\n", checked, os.Getenv("GOOS"), os.Getenv("GOARCH"))
}

// everything loads what is required to check the function bodies of all packages.
const everything = packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
	packages.NeedDeps | packages.NeedTypes | packages.NeedTypesSizes | packages.NeedSyntax | packages.NeedModule

// check returns the number of packages that it has checked, or an error that
// joins all errors found in them.
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
