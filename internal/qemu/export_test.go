// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
)

// Monitor runs a command of QEMU's human monitor over the machine's one QMP
// connection, for tests that play the guest's hardware accesses.
func (l *Local) Monitor(ctx context.Context, id, command string) (string, error) {
	m := l.machine(id)
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

// QMP runs a QMP command over the machine's one connection.
func (l *Local) QMP(ctx context.Context, id, command string, args, result any) error {
	m := l.machine(id)
	if m == nil {
		return errors.New("no such machine")
	}
	client, err := m.connected(ctx)
	if err != nil {
		return err
	}
	return client.Execute(ctx, command, args, result)
}

// CutLog is cutLog.
var CutLog = cutLog
