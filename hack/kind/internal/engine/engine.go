// SPDX-License-Identifier: Apache-2.0

// Package engine runs a Docker engine of our own on a host where none runs, so
// that nothing of it shows on the host but its processes and one bridge:
//
//   - its PID 1 is a process of ours (Init) in a PID namespace and a mount
//     namespace, so that whatever ends that process ends containerd, shims and
//     containers with it and takes every mount away;
//   - images and volumes are in a directory of their own, sockets in another, and
//     no file of /etc is read or written;
//   - it writes no firewall rule and no sysctl: ports are published by Docker's
//     proxy, on loopback. So containers do not reach beyond this host, and nobody
//     else's bridges are touched by Docker's policies.
//
// There is one for a directory. It knows no cluster.
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

// Engine is one engine of our own, whether it runs or not.
type Engine struct {
	// Dir holds images, volumes, the engine's record and its log.
	Dir string
	// Group owns the socket, next to root.
	Group int
}

// runDir is where sockets are: only root can make it, and it is short.
func (e Engine) runDir() string {
	sum := sha256.Sum256([]byte(e.Dir))
	return filepath.Join("/run", "pxelab-engine-"+hex.EncodeToString(sum[:4]))
}

// Socket is where the engine listens.
func (e Engine) Socket() string { return filepath.Join(e.runDir(), "docker.sock") }

// Log is what the engine printed.
func (e Engine) Log() string { return filepath.Join(e.Dir, "engine.log") }

func (e Engine) record() string   { return filepath.Join(e.Dir, "engine.json") }
func (e Engine) dataRoot() string { return filepath.Join(e.Dir, "data") }
func (e Engine) config() string   { return filepath.Join(e.runDir(), "daemon.json") }
func (e Engine) program() string  { return filepath.Join(e.Dir, "kind-lab") }

// bridgePrefix is what the names of the engine's bridges begin with.
func (e Engine) bridgePrefix() string {
	sum := sha256.Sum256([]byte(e.Dir))
	return "pxe" + hex.EncodeToString(sum[:3]) + "-"
}

// Bridge is the name for the bridge of a network, so that it is found even if
// nobody was left to remove it. It fits into the 15 bytes of an interface's.
func (e Engine) Bridge(network string) string {
	sum := sha256.Sum256([]byte(network))
	return e.bridgePrefix() + hex.EncodeToString(sum[:2])
}

// running is what is kept of an engine that was started.
type running struct {
	process.Identity
	// Made are directories that were made for the engine to mount over.
	Made []string `json:"made,omitempty"`
}

// Running tells the process of the engine, and false when it does not run.
func (e Engine) Running() (process.Identity, bool, error) {
	r, err := e.read()
	if err != nil || r == nil {
		return process.Identity{}, false, err
	}
	return r.Identity, process.Alive(r.Identity), nil
}

// Known tells whether an engine is on record, running or killed.
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
		return nil, fmt.Errorf("%s is damaged; look whether that engine runs (processes named dockerd with %s), stop it, and remove the file: %w", e.record(), e.config(), err)
	}
	return &r, nil
}

func (e Engine) write(r running) error {
	text, err := json.Marshal(r)
	if err == nil {
		// Readable: whoever may use the socket may ask who serves it.
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

// daemon is the configuration for a dockerd of the given major version; bounded
// is the runtime to use instead of runc, if not "".
func (e Engine) daemon(major int, bounded string) daemonConfig {
	c := daemonConfig{
		Hosts:         []string{"unix://" + e.Socket()},
		DataRoot:      e.dataRoot(),
		ExecRoot:      filepath.Join(e.runDir(), "exec"),
		PIDFile:       filepath.Join(e.runDir(), "docker.pid"),
		Bridge:        "none",
		UserlandProxy: true,
		CgroupParent:  "/" + filepath.Base(e.runDir()),
		// systemd, where there is one, would keep what we want to remove.
		ExecOpts: []string{"native.cgroupdriver=cgroupfs"},
	}
	if e.Group > 0 {
		c.Group = fmt.Sprint(e.Group)
	}
	// Before 24 a key is written to /etc/docker; later there is none, nor a
	// setting for it.
	if major < 24 {
		c.TrustKey = filepath.Join(e.Dir, "key.json")
	}
	if bounded != "" {
		c.DefaultRuntime = "bounded"
		c.Runtimes = map[string]runtime{"bounded": {Path: bounded}}
	}
	return c
}
