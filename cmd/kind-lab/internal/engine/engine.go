// SPDX-License-Identifier: Apache-2.0

// Package engine runs a private Docker engine on a host without one, isolated so
// that the host sees only its processes and one bridge:
//
//   - its PID 1 is Init, in a PID namespace and a mount namespace, so that the
//     end of that process ends containerd, the shims and the containers, and
//     removes all mounts;
//   - images and volumes are in one dedicated directory, sockets in another, and
//     no file in /etc is read or written;
//   - it changes no firewall rule and no sysctl: ports are published by Docker's
//     userland proxy, on loopback. So containers cannot reach other hosts, and
//     Docker's policies do not affect the host's other bridges.
//
// There is one engine per directory. The package is independent of clusters.
package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/pxelab/pxelab/internal/process"
)

// Engine is a private engine, whether running or not.
type Engine struct {
	// Dir contains images, volumes, the engine's record and its log.
	Dir string
	// Group is the ID of the group that owns the socket; 0 for root only.
	Group int
}

// runDir is the directory for sockets: only root can create it, and its path is
// short.
func (e Engine) runDir() string {
	sum := sha256.Sum256([]byte(e.Dir))
	return filepath.Join("/run", "pxelab-engine-"+hex.EncodeToString(sum[:4]))
}

// Socket returns the path of the engine's API socket.
func (e Engine) Socket() string { return filepath.Join(e.runDir(), "docker.sock") }

// Log returns the path of the engine's log.
func (e Engine) Log() string { return filepath.Join(e.Dir, "engine.log") }

func (e Engine) record() string   { return filepath.Join(e.Dir, "engine.json") }
func (e Engine) dataRoot() string { return filepath.Join(e.Dir, "data") }
func (e Engine) config() string   { return filepath.Join(e.runDir(), "daemon.json") }
func (e Engine) program() string  { return filepath.Join(e.Dir, "kind-lab") }

// bridgePrefix is the prefix of the names of the engine's bridges.
func (e Engine) bridgePrefix() string {
	sum := sha256.Sum256([]byte(e.Dir))
	return "pxe" + hex.EncodeToString(sum[:3]) + "-"
}

// Bridge returns the name for the bridge of a network. The name allows Leftovers
// and Stop to find bridges that a killed engine left. It fits into the 15 bytes
// of an interface name.
func (e Engine) Bridge(network string) string {
	sum := sha256.Sum256([]byte(network))
	return e.bridgePrefix() + hex.EncodeToString(sum[:2])
}

// running is the on-disk record of a started engine.
type running struct {
	process.Identity
	// Made lists the directories that were created as mount points.
	Made []string `json:"made,omitempty"`
}

// Running returns the engine's process and whether it is alive.
func (e Engine) Running() (process.Identity, bool, error) {
	r, err := e.read()
	if err != nil || r == nil {
		return process.Identity{}, false, err
	}
	return r.Identity, process.Alive(r.Identity), nil
}

// Known reports whether an engine is on record, running or killed.
func (e Engine) Known() (bool, error) {
	r, err := e.read()
	return r != nil, err
}

func (e Engine) read() (*running, error) {
	text, err := os.ReadFile(e.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the engine's record: %w", err)
	}
	var r running
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w; stop the engine if it is running (a dockerd process with %s), and remove the file",
			e.record(), err, e.config())
	}
	return &r, nil
}

func (e Engine) write(r running) error {
	text, err := json.Marshal(r)
	if err == nil {
		// World-readable, like the identity of the process itself.
		err = renameio.WriteFile(e.record(), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("recording the engine: %w", err)
	}
	return nil
}

// daemonConfig is dockerd's configuration file.
type daemonConfig struct {
	Hosts          []string           `json:"hosts"`
	Group          string             `json:"group,omitempty"`
	DataRoot       string             `json:"data-root"`
	ExecRoot       string             `json:"exec-root"`
	PIDFile        string             `json:"pidfile"`
	Bridge         string             `json:"bridge"`
	IPTables       bool               `json:"iptables"`
	IP6Tables      bool               `json:"ip6tables"`
	IPForward      bool               `json:"ip-forward"`
	IPMasq         bool               `json:"ip-masq"`
	UserlandProxy  bool               `json:"userland-proxy"`
	TrustKey       string             `json:"deprecated-key-path,omitempty"`
	CgroupParent   string             `json:"cgroup-parent"`
	ExecOpts       []string           `json:"exec-opts"`
	DefaultRuntime string             `json:"default-runtime,omitempty"`
	Runtimes       map[string]runtime `json:"runtimes,omitempty"`
}

type runtime struct {
	Path string `json:"path"`
}

// daemon returns the configuration for a dockerd of the given major version;
// bounded is the runtime to use instead of runc, or "".
func (e Engine) daemon(major int, bounded string) daemonConfig {
	c := daemonConfig{
		Hosts:         []string{"unix://" + e.Socket()},
		DataRoot:      e.dataRoot(),
		ExecRoot:      filepath.Join(e.runDir(), "exec"),
		PIDFile:       filepath.Join(e.runDir(), "docker.pid"),
		Bridge:        "none",
		UserlandProxy: true,
		CgroupParent:  "/" + filepath.Base(e.runDir()),
		// With systemd's driver, systemd would keep the cgroups.
		ExecOpts: []string{"native.cgroupdriver=cgroupfs"},
	}
	if e.Group > 0 {
		c.Group = fmt.Sprint(e.Group)
	}
	// Before version 24 dockerd writes a key to /etc/docker; later versions
	// have neither the key nor this setting.
	if major < 24 {
		c.TrustKey = filepath.Join(e.Dir, "key.json")
	}
	if bounded != "" {
		c.DefaultRuntime = "bounded"
		c.Runtimes = map[string]runtime{"bounded": {Path: bounded}}
	}
	return c
}
