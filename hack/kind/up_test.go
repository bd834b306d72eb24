// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/pxelab/pxelab/internal/paths"
)

// Whoever makes a cluster has no container yet when another removes the last one.
func TestAnEngineInUseIsNotEnded(t *testing.T) {
	cache := t.TempDir()
	one := &app{name: "one", dirs: paths.Dirs{Cache: cache}}
	two := &app{name: "two", dirs: paths.Dirs{Cache: cache}}
	made, err := one.useEngine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, alone, err := two.endEngine(t.Context(), time.Second); err != nil || alone {
		t.Errorf("ended while a cluster is made: %t, %v", alone, err)
	}
	made()
	ended, alone, err := two.endEngine(t.Context(), time.Second)
	if err != nil || !alone {
		t.Fatalf("not ended when nobody uses it: %t, %v", alone, err)
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
		t.Fatalf("used while it is ended: %v", err)
	case <-time.After(time.Second):
	}
	ended()
	if err := <-began; err != nil {
		t.Error(err)
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
		t.Error(diff)
	}
	for _, text := range []string{"", "8080", "x:1", "1:x", "1:0", "70000:1", "host:1:2", ":1"} {
		if got, err := parsePorts([]string{text}); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
}
