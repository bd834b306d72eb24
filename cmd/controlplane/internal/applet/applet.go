// SPDX-License-Identifier: Apache-2.0

// Package applet implements a multi-call binary, which selects the program to
// run by the name it is invoked as.
package applet

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Applet is one program of a multi-call binary.
type Applet struct {
	// About is its one-line description in the list of commands.
	About string
	// Run receives the arguments without the applet's name. It returns the
	// exit status or exits the process.
	Run func(args []string) int
}

// Table maps names to applets.
type Table map[string]Applet

// Select returns the applet that argv names, and its arguments. It looks at the
// last path element of argv[0], then at the first argument. It returns fallback
// when there are no arguments or the first one begins with "-". The error text
// includes the usage and is meant to be printed unchanged.
func (t Table) Select(argv []string, fallback string) (name string, args []string, err error) {
	if len(argv) == 0 {
		return fallback, nil, nil
	}
	program := filepath.Base(argv[0])
	if t.has(program) {
		return program, argv[1:], nil
	}
	switch rest := argv[1:]; {
	case len(rest) == 0:
		return fallback, nil, nil
	case t.has(rest[0]):
		return rest[0], rest[1:], nil
	case strings.HasPrefix(rest[0], "-"):
		return fallback, rest, nil
	default:
		return "", nil, fmt.Errorf("%s: unknown command %q\n%s", program, rest[0], t.Usage())
	}
}

func (t Table) has(name string) bool {
	_, ok := t[name]
	return ok
}

// Usage lists the applets, sorted by name.
func (t Table) Usage() string {
	var b strings.Builder
	b.WriteString("Commands, also selected by the name of a link to this program:")
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "\n  %-16s %s", name, t[name].About)
	}
	return b.String()
}
