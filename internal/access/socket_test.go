// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// serveSocket serves the host API until the test ends or calls the returned function.
func serveSocket(t *testing.T, b *backend) (*access.SocketClient, func()) {
	t.Helper()
	socket := filepath.Join(pathstest.Short(t), "manager.sock")
	server, err := access.ListenSocket(access.SocketOptions{Socket: socket, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return access.NewSocketClient(socket), stop
}

func TestUnobserved(t *testing.T) {
	b := &backend{}
	client, stop := serveSocket(t, b)
	got, err := client.Unobserved(t.Context())
	if err != nil || len(got) != 0 {
		t.Errorf("Unobserved of a manager that has observed all = %v, %v, want none", got, err)
	}
	b.unobserved = []access.Object{{Kind: "BareMetalTarget", Namespace: "default", Name: "target-1"}, {Kind: "BootProfile", Namespace: "x", Name: "y"}}
	got, err = client.Unobserved(t.Context())
	if diff := cmp.Diff(b.unobserved, got); err != nil || diff != "" {
		t.Errorf("Unobserved: got error %v, result (-want +got):\n%s", err, diff)
	}
	b.broken = errors.New("disk on fire")
	var response *access.SocketError
	if _, err := client.Unobserved(t.Context()); !errors.As(err, &response) || response.Status != 500 {
		t.Errorf("Unobserved of a manager that fails = %v, want status 500", err)
	}
	stop()
	if _, err := client.Unobserved(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("Unobserved without a manager = %v, want ErrNoManager", err)
	}
}

func TestServerSocket(t *testing.T) {
	dir := pathstest.Short(t)
	socket := filepath.Join(dir, "manager.sock")
	options := access.SocketOptions{Socket: socket, Backend: &backend{dir: dir}}

	// The socket of a killed manager is replaced.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	server, err := access.ListenSocket(options)
	if err != nil {
		t.Fatalf("ListenSocket with a stale socket = %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()

	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("got socket mode %o, want 600", info.Mode().Perm())
	}
	if _, err := access.ListenSocket(options); err == nil || !strings.Contains(err.Error(), "another manager") {
		t.Errorf("ListenSocket with the socket of a running manager = %v, want an error", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the stop: got %v, want it removed", err)
	}
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := access.ListenSocket(options); err == nil {
		t.Error("ListenSocket with a file at the socket path = nil, want an error")
	}
}

func TestCapacity(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := access.Capacity{
		Memory: access.Usage{Used: 3 << 30, Limit: 4 << 30}, Installations: access.Usage{Used: 1}, Machines: 2,
		Waiting: []access.Waiting{
			{Kind: access.Server, Namespace: "a", Name: "lab", Reason: "HostFull", Message: "needs memory", Since: since},
			{Kind: access.Target, Namespace: "b", Name: "target-1", Reason: "InstallationsLimit", Message: "after others", Since: since},
		},
	}
	b := &backend{capacity: want}
	client, _ := serve(t, b)
	got, err := client.Capacity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("capacity differs (-want +got):\n%s", diff)
	}
	socket, _ := serveSocket(t, b)
	if got, err := socket.Capacity(t.Context()); err != nil || !cmp.Equal(want, got) {
		t.Errorf("host API: got %+v, error %v, want %+v", got, err, want)
	}
	var out bytes.Buffer
	if err := got.Print(&out, 1); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"2 machines, 3072 MiB of at most 4096 MiB of memory\n", "1 installations\n", "2 waiting:\n", "POSITION", "server a/lab", "needs memory", "and 1 more",
	} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("got %q, want it to contain %q", out.String(), text)
		}
	}
	if strings.Contains(out.String(), "b/target-1") {
		t.Errorf("got %q, want one machine only", out.String())
	}
	out.Reset()
	if err := (access.Capacity{}).Print(&out, 1); err != nil || out.String() != "0 machines, 0 MiB of memory\n0 installations\n" {
		t.Errorf("got %q, error %v for an empty host", out.String(), err)
	}
}

func TestCapacityUnavailable(t *testing.T) {
	b := &backend{capacity: access.Capacity{Machines: -1}}
	client, _ := serve(t, b)
	_, err := client.Capacity(t.Context())
	checkStatus(t, "capacity", err, http.StatusServiceUnavailable, "not counted")
	socket, stop := serveSocket(t, b)
	var answer *access.SocketError
	if _, err := socket.Capacity(t.Context()); !errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable {
		t.Errorf("got error %v, want status %d", err, http.StatusServiceUnavailable)
	}
	stop()
	if _, err := socket.Capacity(t.Context()); !errors.Is(err, access.ErrNoManager) {
		t.Errorf("got error %v after the stop, want %v", err, access.ErrNoManager)
	}
}
