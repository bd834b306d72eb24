// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestStatusListsMachinesWithoutObject(t *testing.T) {
	var out bytes.Buffer
	printLost(&out, nil)
	if out.Len() > 0 {
		t.Errorf("got %q for no machines, want nothing", out.String())
	}
	printLost(&out, []ownership.MachineDir{
		{Path: "/data/machines/1", Owner: ownership.MachineOwner{Kind: "BareMetalTarget", Namespace: "default", Name: "target-1"}},
		{Path: "/data/machines/2"},
	})
	for _, want := range []string{
		"/data/machines/1 (BareMetalTarget default/target-1)", "/data/machines/2 (owner not recorded)", "--orphan-grace", "make down",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want it to contain %q", out.String(), want)
		}
	}
}

func TestStatusListsRetainedDisks(t *testing.T) {
	l := &lab{dirs: paths.Dirs{Data: t.TempDir()}}
	var out bytes.Buffer
	if err := l.printRetained(&out); err != nil || out.Len() > 0 {
		t.Errorf("got %q, %v without retained disks, want nothing", out.String(), err)
	}
	dir := filepath.Join(l.dirs.Data, "retained", "default-target-1-uid")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "disk0.raw"), bytes.Repeat([]byte{1}, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.printRetained(&out); err != nil || !strings.Contains(out.String(), dir+" (3Mi)") {
		t.Errorf("got %q, %v; want the directory and 3Mi", out.String(), err)
	}
	if err := ownership.RecordMachine(dir, ownership.MachineOwner{Kind: "BareMetalTarget", Namespace: "default", UID: "uid", Disks: "disk0"}); err != nil {
		t.Fatal(err)
	}
	if err := l.printRetained(&out); err != nil || !strings.Contains(out.String(), "in namespace default with disks disk0 and source.retained uid") {
		t.Errorf("got %q, %v; want how to adopt the disks", out.String(), err)
	}
}

// capacityBackend is a manager whose host is full.
type capacityBackend struct{ access.HostBackend }

func (capacityBackend) Capacity(context.Context) (access.Capacity, error) {
	return access.Capacity{
		Machines: 1, Waiting: []access.Waiting{{Kind: access.Target, Namespace: "default", Name: "target-2", Reason: "HostFull"}},
	}, nil
}

func TestStatusListsWaitingMachines(t *testing.T) {
	l := &lab{dirs: paths.Dirs{Runtime: pathstest.Short(t)}}
	var out bytes.Buffer
	if err := l.printCapacity(t.Context(), &out); err != nil || out.Len() > 0 {
		t.Errorf("got %q, error %v without a manager, want nothing", out.String(), err)
	}
	server, err := access.ListenSocket(access.SocketOptions{Socket: l.dirs.ManagerSocket(), Backend: capacityBackend{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := l.printCapacity(t.Context(), &out); err != nil || !strings.Contains(out.String(), "target default/target-2") {
		t.Errorf("got %q, error %v; want the machine that waits", out.String(), err)
	}
}
