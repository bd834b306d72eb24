// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"

	"github.com/pxelab/pxelab/internal/machine"
)

// Monitor runs a command of QEMU's human monitor over the machine's only QMP
// connection, for tests that simulate the guest's hardware accesses.
func (l *Local) Monitor(ctx context.Context, id, command string) (string, error) {
	m := l.instance(id)
	if m == nil {
		return "", errors.New("no such machine")
	}
	client, err := m.connected(ctx)
	if err != nil {
		return "", err
	}
	var out string
	err = client.Execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &out)
	return out, err
}

// QMP runs a QMP command over the machine's only connection.
func (l *Local) QMP(ctx context.Context, id, command string, args, result any) error {
	m := l.instance(id)
	if m == nil {
		return errors.New("no such machine")
	}
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	return client.Execute(ctx, command, args, result)
}

// CutLog exports cutLog for tests.
var CutLog = cutLog

// ParseForwards exports parseForwards for tests.
var ParseForwards = parseForwards

// Bases exports bases for tests.
func (l *Local) Bases(m machine.Machine, disk string) ([]string, error) { return l.bases(m, disk) }
