// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"sigs.k8s.io/kind/pkg/log"
)

// logger prints what kind says like our own lines: its steps as they begin, and
// its complaints. It is a kind log.Logger.
type logger struct{ a *app }

// Warn prints a complaint, unless it is of the network's name, which is ours on
// purpose.
func (l logger) Warn(message string) {
	if strings.Contains(message, "docker network due to") || strings.Contains(message, "Here be dragons") {
		return
	}
	l.a.say("kind: %s", message)
}

// Warnf is Warn with a format.
func (l logger) Warnf(format string, args ...any) { l.Warn(fmt.Sprintf(format, args...)) }

// Error prints a complaint.
func (l logger) Error(message string) { l.a.say("kind: %s", message) }

// Errorf is Error with a format.
func (l logger) Errorf(format string, args ...any) { l.Error(fmt.Sprintf(format, args...)) }

// V is for messages that are no complaints; only the most important are shown.
func (l logger) V(level log.Level) log.InfoLogger { return info{l.a, level == 0} }

type info struct {
	a     *app
	shown bool
}

// Info prints the beginning of a step; its end is the beginning of the next.
func (i info) Info(message string) {
	step, begins := strings.CutPrefix(strings.TrimSpace(message), "•")
	if !i.shown || !begins {
		return
	}
	// Without the picture at the end.
	step, _, _ = strings.Cut(strings.TrimSuffix(strings.TrimSpace(step), "..."), "  ")
	i.a.say("kind: %s", strings.TrimRightFunc(step, func(r rune) bool { return r > 127 || r == ' ' }))
}

// Infof is Info with a format.
func (i info) Infof(format string, args ...any) { i.Info(fmt.Sprintf(format, args...)) }

// Enabled tells whether anything is printed.
func (i info) Enabled() bool { return i.shown }
