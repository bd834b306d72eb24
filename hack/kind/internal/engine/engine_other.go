// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package engine

import (
	"context"
	"errors"
)

var errLinux = errors.New("an engine of our own runs on Linux only: start Docker")

// Start is for Linux.
func (e Engine) Start(context.Context) error { return errLinux }

// Stop is for Linux; nothing runs elsewhere.
func (e Engine) Stop(context.Context) error { return nil }

// Init is for Linux.
func Init([]string) (int, error) { return 1, errLinux }

// Leftovers is for Linux.
func (e Engine) Leftovers() ([]string, error) { return nil, nil }

// Answers is for Linux.
func (e Engine) Answers(context.Context) bool { return false }
