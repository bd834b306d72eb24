// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A command that creates a cluster may have no container yet when another removes
// the last one.
func TestEngineInUseIsNotStopped(t *testing.T) {
	cache := t.TempDir()
	one := &app{name: "one", dirs: paths.Dirs{Cache: cache}}
	two := &app{name: "two", dirs: paths.Dirs{Cache: cache}}
	made, err := one.useEngine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, exclusive, err := two.lockEngine(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if exclusive {
		t.Error("while a cluster is created: got an exclusive lock, want none")
	}
	made()
	ended, exclusive, err := two.lockEngine(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if !exclusive {
		t.Fatal("without users: got no exclusive lock, want one")
	}
	began := make(chan error, 1)
	go func() {
		release, err := one.useEngine(t.Context())
		if err == nil {
			release()
		}
		began <- err
	}()
	select {
	case err := <-began:
		t.Fatalf("while the engine is stopped: got a shared lock, error %v, want a call that waits", err)
	case <-time.After(time.Second):
	}
	ended()
	if err := <-began; err != nil {
		t.Error(err)
	}
}

// TestMounts expects an image folder that pods can read, and the existing devices.
func TestMounts(t *testing.T) {
	dirs := paths.Dirs{Data: t.TempDir(), Cache: t.TempDir(), Runtime: pathstest.Short(t)}
	if err := dirs.Ensure(); err != nil { // as "make kind-up" does first
		t.Fatal(err)
	}
	got, err := (&app{dirs: dirs}).mounts()
	if err != nil {
		t.Fatal(err)
	}
	want := []v1alpha4.Mount{{HostPath: dirs.Images(), ContainerPath: nodeImages, Readonly: true}}
	for _, device := range []string{"/dev/kvm", "/dev/net/tun"} {
		if _, err := os.Stat(device); err == nil {
			want = append(want, v1alpha4.Mount{HostPath: device, ContainerPath: device})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	info, err := os.Stat(dirs.Images())
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o755 {
		t.Errorf("image folder: got mode %v, want 0755", mode)
	}
}

func TestParsePorts(t *testing.T) {
	got, err := parsePorts([]string{"8080:30080", "0.0.0.0:8443:30443", "[::1]:1:2", "0:30000"})
	if err != nil {
		t.Fatal(err)
	}
	want := []v1alpha4.PortMapping{
		{ListenAddress: "127.0.0.1", HostPort: 8080, ContainerPort: 30080},
		{ListenAddress: "0.0.0.0", HostPort: 8443, ContainerPort: 30443},
		{ListenAddress: "::1", HostPort: 1, ContainerPort: 2},
		{ListenAddress: "127.0.0.1", HostPort: 0, ContainerPort: 30000},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "8080", "x:1", "1:x", "1:0", "70000:1", "host:1:2", ":1"} {
		if got, err := parsePorts([]string{text}); err == nil {
			t.Errorf("%q: got %v without an error, want one", text, got)
		}
	}
}
