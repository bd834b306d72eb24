// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"sigs.k8s.io/kind/pkg/log"
)

// logger is a kind log.Logger that prints the start of kind's steps, and its
// warnings and errors, in the format of this program.
type logger struct{ a *app }

// Warn prints a warning, except those about the custom network name, which is
// intended.
func (l logger) Warn(message string) {
	if strings.Contains(message, "docker network due to") || strings.Contains(message, "Here be dragons") {
		return
	}
	l.a.logf("kind: %s", message)
}

// Warnf is Warn with a format.
func (l logger) Warnf(format string, args ...any) { l.Warn(fmt.Sprintf(format, args...)) }

// Error prints an error.
func (l logger) Error(message string) { l.a.logf("kind: %s", message) }

// Errorf is Error with a format.
func (l logger) Errorf(format string, args ...any) { l.Error(fmt.Sprintf(format, args...)) }

// V returns a logger for informational messages; only level 0 is shown.
func (l logger) V(level log.Level) log.InfoLogger { return info{l.a, level == 0} }

type info struct {
	a     *app
	shown bool
}

// Info prints the start of a step; the start of the next one implies its end.
func (i info) Info(message string) {
	step, begins := strings.CutPrefix(strings.TrimSpace(message), "•")
	if !i.shown || !begins {
		return
	}
	// Drop the emoji at the end.
	step, _, _ = strings.Cut(strings.TrimSuffix(strings.TrimSpace(step), "..."), "  ")
	i.a.logf("kind: %s", strings.TrimRightFunc(step, func(r rune) bool { return r > 127 || r == ' ' }))
}

// Infof is Info with a format.
func (i info) Infof(format string, args ...any) { i.Info(fmt.Sprintf(format, args...)) }

// Enabled reports whether anything is printed.
func (i info) Enabled() bool { return i.shown }
