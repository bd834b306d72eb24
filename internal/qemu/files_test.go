// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// serve binds a stream or datagram socket whose file remains after Close, as when a
// process is killed.
func serve(t *testing.T, network, path string) io.Closer {
	t.Helper()
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	return l
}

// TestPrepareFilesRemovesOnlyStaleSockets covers each of a machine's sockets, first
// while a process serves it and then after that process was killed.
func TestPrepareFilesRemovesOnlyStaleSockets(t *testing.T) {
	id := uuid.NewString()
	m := machine.Machine{ID: id, Paths: machine.NewPaths(t.TempDir(), pathstest.Short(t), id)}
	wire := filepath.Join(m.Paths.Sockets, "net")
	m.NICs = []machine.NIC{{Backend: machine.Backend{Dgram: &machine.Dgram{Local: wire}}}}
	if err := hostfs.PrivateDir(m.Paths.Dir); err != nil {
		t.Fatal(err)
	}
	if err := prepareFiles(m); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]struct{ network, path string }{
		"QMP":    {"unix", m.Paths.QMP},
		"serial": {"unix", m.Paths.Serial},
		"VNC":    {"unix", m.Paths.VNC},
		"NIC":    {"unixgram", wire},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, socket.network, socket.path)
			if err := prepareFiles(m); !errors.Is(err, hostfs.ErrSocketInUse) {
				t.Errorf("served socket: got error %v, want %v", err, hostfs.ErrSocketInUse)
			}
			if _, err := os.Lstat(socket.path); err != nil {
				t.Errorf("served socket: got error %v, want it kept", err)
			}
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			if err := prepareFiles(m); err != nil {
				t.Errorf("stale socket: got error %v, want nil", err)
			}
			if _, err := os.Lstat(socket.path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("stale socket: got error %v, want it removed", err)
			}
		})
	}
}
