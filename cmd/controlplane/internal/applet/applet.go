// SPDX-License-Identifier: Apache-2.0

// Package applet lets one program be several, chosen by the name it is called
// as. It knows no applet itself.
package applet

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Applet is one of the programs inside a program.
type Applet struct {
	// About is a line for the list of commands.
	About string
	// Run gets the arguments without the applet's name and returns the exit
	// status, or exits by itself.
	Run func(args []string) int
}

// Table holds the applets by name.
type Table map[string]Applet

// Select tells which applet argv asks for and what its arguments are: by the
// last element of argv[0], else by the first argument, else fallback, which is
// also who gets arguments that begin with a flag. The error is fit to be shown
// as it is.
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
		return "", nil, fmt.Errorf("%s: there is no command %q\n%s", program, rest[0], t.Usage())
	}
}

func (t Table) has(name string) bool {
	_, ok := t[name]
	return ok
}

// Usage lists the applets in order of their names.
func (t Table) Usage() string {
	var b strings.Builder
	b.WriteString("commands, also chosen by the name of a link to this program:")
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "\n  %-16s %s", name, t[name].About)
	}
	return b.String()
}
