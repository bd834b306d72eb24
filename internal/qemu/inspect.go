// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/process"
	"github.com/pxelab/pxelab/internal/qemu/internal/qmp"
)

// observed is what QEMU reports of a machine.
type observed struct {
	// process is zero if nothing serves the socket.
	process   process.Identity
	startedAt time.Time // of the socket, which QEMU creates when it starts
	// machine has ID, name, disks and NICs, and the forwards.
	machine machine.Machine
	// files are those of the block devices.
	files []string
}

// inspect queries the process that serves a QMP socket; id is the machine that it must
// belong to, or "". A stale socket refuses connections.
func inspect(ctx context.Context, path, id string) (observed, error) {
	ctx, cancel := context.WithTimeout(ctx, qmp.DefaultTimeout)
	defer cancel()
	client, err := qmp.Dial(ctx, path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return observed{}, nil
	}
	if err != nil {
		return observed{}, err
	}
	o := observed{startedAt: time.Now()}
	if info, err := os.Stat(path); err == nil {
		o.startedAt = info.ModTime()
	}
	if o.machine.ID, o.process, err = identify(ctx, client, id); err == nil {
		err = o.query(ctx, client)
	}
	if err = errors.Join(err, client.Close()); err != nil {
		return observed{}, fmt.Errorf("QMP socket %s: %w", path, err)
	}
	return o, nil
}

// query sets what a QMP client can learn of the machine.
func (o *observed) query(ctx context.Context, client *qmp.Client) error {
	var name struct {
		Name string `json:"name"`
	}
	if err := client.Execute(ctx, "query-name", nil, &name); err != nil {
		return err
	}
	o.machine.Name = name.Name
	var blocks []struct {
		Device   string `json:"qdev"` // /machine/peripheral/<id>/virtio-backend
		Inserted struct {
			File string `json:"file"`
		} `json:"inserted"`
	}
	if err := client.Execute(ctx, "query-block", nil, &blocks); err != nil {
		return err
	}
	disks := map[string]string{}
	for _, b := range blocks {
		o.files = append(o.files, b.Inserted.File)
		disks[filepath.Base(filepath.Dir(b.Device))] = b.Inserted.File
	}
	forwards, err := queryForwards(ctx, client)
	if err != nil {
		return err
	}
	var devices []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	if err := client.Execute(ctx, "qom-list", map[string]string{"path": "/machine/peripheral"}, &devices); err != nil {
		return err
	}
	for _, d := range devices {
		switch d.Type {
		case "child<virtio-blk-pci>":
			o.machine.Disks = append(o.machine.Disks, machine.Disk{ID: d.Name, Path: disks[d.Name]})
		case "child<virtio-net-pci>":
			nic := machine.NIC{ID: d.Name}
			if f := forwards[d.Name]; f != nil {
				nic.Backend.User = &machine.User{Forwards: f}
			}
			o.machine.NICs = append(o.machine.NICs, nic)
		}
	}
	return nil
}

// queryForwards returns the forwards of user-mode NICs by the NIC's ID. QMP has no
// command for them.
func queryForwards(ctx context.Context, client *qmp.Client) (map[string][]machine.Forward, error) {
	var text string
	err := client.Execute(ctx, "human-monitor-command", map[string]string{"command-line": "info usernet"}, &text)
	if err != nil {
		return nil, err
	}
	return parseForwards(text), nil
}

// parseForwards parses QEMU's "info usernet": a line "Hub -1 (NETDEV):" before the
// connections of each network, whose columns are protocol and state, descriptor, source
// address and port, destination address and port. It ignores other lines.
func parseForwards(text string) map[string][]machine.Forward {
	forwards := map[string][]machine.Forward{}
	nic := ""
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Hub" {
			nic = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(f[2], "("), "):"), netdevSuffix)
			continue
		}
		if len(f) < 6 || f[0] != "TCP[HOST_FORWARD]" || nic == "" {
			continue
		}
		host, err := strconv.ParseUint(f[3], 10, 16)
		guest, err2 := strconv.ParseUint(f[5], 10, 16)
		if err == nil && err2 == nil {
			forwards[nic] = append(forwards[nic], machine.Forward{HostPort: int(host), GuestPort: int(guest)})
		}
	}
	return forwards
}

// withForwards returns a copy of nics with the forwards of a process that runs them.
func withForwards(nics []machine.NIC, o observed) []machine.NIC {
	forwards := map[string][]machine.Forward{}
	for _, n := range o.machine.NICs {
		if n.Backend.User != nil {
			forwards[n.ID] = n.Backend.User.Forwards
		}
	}
	out := make([]machine.NIC, len(nics))
	for i, n := range nics {
		if n.Backend.User != nil {
			user := *n.Backend.User
			user.Forwards = forwards[n.ID]
			n.Backend.User = &user
		}
		out[i] = n
	}
	return out
}

// belongsTo reports whether the machine's files are in this data directory. Others may use
// the runtime directory as well.
func (o observed) belongsTo(dataDir string) bool {
	dir := filepath.Join(dataDir, "machines", o.machine.ID) + string(filepath.Separator)
	for _, file := range o.files {
		if strings.HasPrefix(file, dir) {
			return true
		}
	}
	return false
}
