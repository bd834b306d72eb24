// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package engine

import (
	"context"
	"errors"
)

var errLinux = errors.New("a private engine runs on Linux only; start Docker")

// Start returns an error: it is supported on Linux only.
func (e Engine) Start(context.Context) error { return errLinux }

// Stop does nothing: no engine can be running.
func (e Engine) Stop(context.Context) error { return nil }

// Init returns an error: it is supported on Linux only.
func Init([]string) (int, error) { return 1, errLinux }

// Leftovers returns nothing: no engine can have run.
func (e Engine) Leftovers() ([]string, error) { return nil, nil }

// Answers returns false: no engine can be running.
func (e Engine) Answers(context.Context) bool { return false }
