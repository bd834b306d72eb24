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

	"k8s.io/client-go/tools/clientcmd"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/process"
)

// The names of the lab's background programs in their records.
const (
	controlPlane = "controlplane"
	manager      = "manager"
	simulator    = "simulator"
)

func (l *lab) recordOf(program string) string {
	return filepath.Join(l.data, "run", program+".json")
}

// program returns the process of a background program.
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

// kill sends SIGKILL to all processes, and then waits until they have exited.
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
			x.Fatalf("process %d still exists after SIGKILL: %v", id.PID, err)
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

// startPrograms starts the background programs that are not running, as a user
// does, and waits until the manager can reach the server's machine.
func (x *trial) startPrograms() {
	x.Helper()
	x.lab("up", "--samples=none")
	config, err := clientcmd.BuildConfigFromFlags("", x.kubeconfig)
	if err != nil {
		x.Fatal(err)
	}
	client, err := access.NewClient(config)
	if err != nil {
		x.Fatal(err)
	}
	deadline := newDeadline(guestLimit)
	for {
		ctx, cancel := context.WithTimeout(x.Context(), time.Minute)
		conn, err := client.SSH(ctx, access.Ref{Namespace: "default", Kind: access.Server, Name: server})
		cancel()
		if err == nil {
			_ = conn.Close()
			return
		}
		deadline.pause(x, "the manager cannot reach the server's machine: "+err.Error())
	}
}
