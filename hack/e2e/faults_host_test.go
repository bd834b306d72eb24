// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/process"
)

// The lab's background programs, by the names of their records.
const (
	controlPlane = "controlplane"
	manager      = "manager"
)

func (l *lab) recordOf(program string) string {
	return filepath.Join(l.data, "run", program+".json")
}

// program is the process of a background program.
func (l *lab) program(t testing.TB, name string) process.Identity {
	t.Helper()
	var id process.Identity
	raw, err := os.ReadFile(l.recordOf(name))
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// kill ends processes without a word, all at the same moment, and returns when
// they are gone.
func (x *trial) kill(ids ...process.Identity) {
	x.Helper()
	for _, id := range ids {
		if err := process.Signal(id, syscall.SIGKILL); err != nil {
			x.Fatalf("killing process %d: %v", id.PID, err)
		}
	}
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(x.Context(), guestLimit)
		_, err := process.Wait(ctx, id)
		cancel()
		if err != nil {
			x.Fatalf("process %d was killed and is still there: %v", id.PID, err)
		}
	}
}

// lab runs "bin/lab".
func (x *trial) lab(args ...string) {
	x.Helper()
	if out, err := x.run(x.Context(), "bin/lab", args...); err != nil {
		x.Fatalf("lab %v: %v\n%s", args, err, out)
	}
}

// startPrograms starts the background programs that do not run, as a user
// does, and returns when the manager has found the server's machine and knows
// the way to it.
func (x *trial) startPrograms() {
	x.Helper()
	x.lab("up", "--samples=none")
	door := access.NewClient(filepath.Join(x.runtime, "manager.sock"))
	deadline := newDeadline(guestLimit)
	for {
		ctx, cancel := context.WithTimeout(x.Context(), time.Minute)
		conn, err := door.SSH(ctx, access.Ref{Namespace: "default", Kind: access.Server, Name: server})
		cancel()
		if err == nil {
			_ = conn.Close()
			return
		}
		deadline.pause(x, "the manager does not find the server's machine: "+err.Error())
	}
}
