// SPDX-License-Identifier: Apache-2.0

// Package paths says where a lab keeps its files on the host. Every program of
// the project takes the places from here, so that they agree without being told.
//
// It knows the places that programs share and nothing of what is in them: the
// layout below machines/ belongs to internal/qemu, that below artifacts/ to
// internal/artifact.
package paths

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Environment variables that move a lab. Each names a directory.
const (
	EnvData    = "PXELAB_DATA_DIR"
	EnvCache   = "PXELAB_CACHE_DIR"
	EnvRuntime = "PXELAB_RUNTIME_DIR"
)

// maxRuntime keeps every socket below the runtime directory within the 104
// bytes that macOS allows for a socket's path; Linux allows 108.
const maxRuntime = 68

// Dirs are the directories of one lab. Two labs of one user that share none of
// Data and Runtime do not see each other; Cache may be shared.
type Dirs struct {
	// Data holds what must survive: objects, artifacts, machines, logs.
	Data string
	// Cache holds heavy build outputs by digest, and the images folder. All of
	// it can be made again.
	Cache string
	// Runtime holds sockets. Its path is short; it may vanish on reboot.
	Runtime string
}

// Default is the lab of the calling user: as the environment says, else as the
// XDG base directory specification says, on Linux and on macOS alike. It
// touches no file.
func Default() (Dirs, error) {
	return fromEnvironment(os.Getenv, os.UserHomeDir, os.Getuid())
}

func fromEnvironment(getenv func(string) string, home func() (string, error), uid int) (Dirs, error) {
	place := func(env, xdg, inHome string) (string, error) {
		if dir := getenv(env); dir != "" {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return "", fmt.Errorf("resolving %s=%q: %w", env, dir, err)
			}
			return abs, nil
		}
		// The specification wants relative values ignored.
		if dir := getenv(xdg); filepath.IsAbs(dir) {
			return filepath.Join(dir, "pxelab"), nil
		}
		h, err := home()
		if err != nil {
			return "", fmt.Errorf("finding a place for the lab's files: %w; set %s", err, env)
		}
		return filepath.Join(h, inHome, "pxelab"), nil
	}
	// The runtime directory must not depend on a home.
	temporary := filepath.Join("/tmp", "pxelab-"+strconv.Itoa(uid))

	var d Dirs
	var errs [3]error
	d.Data, errs[0] = place(EnvData, "XDG_DATA_HOME", ".local/share")
	d.Cache, errs[1] = place(EnvCache, "XDG_CACHE_HOME", ".cache")
	if getenv(EnvRuntime) == "" && !filepath.IsAbs(getenv("XDG_RUNTIME_DIR")) {
		d.Runtime = filepath.Join(temporary, "pxelab")
	} else {
		d.Runtime, errs[2] = place(EnvRuntime, "XDG_RUNTIME_DIR", "")
	}
	if err := errors.Join(errs[:]...); err != nil {
		return Dirs{}, err
	}
	return d, d.checkRuntimeLength()
}

func (d Dirs) checkRuntimeLength() error {
	if len(d.Runtime) <= maxRuntime {
		return nil
	}
	return fmt.Errorf("the runtime directory %s is %d bytes long; sockets below it need it to be at most %d: set %s to a shorter one",
		d.Runtime, len(d.Runtime), maxRuntime, EnvRuntime)
}

// Images is the lab's image folder, which the path of an artifact is below.
func (d Dirs) Images() string { return filepath.Join(d.Cache, "images") }

// ControlPlane is the data directory of the embedded control plane.
func (d Dirs) ControlPlane() string { return filepath.Join(d.Data, "controlplane") }

// Kubeconfig is where the embedded control plane writes its admin's kubeconfig.
func (d Dirs) Kubeconfig() string { return filepath.Join(d.ControlPlane(), "kubeconfig") }

// Logs is where the programs that run in the background log to.
func (d Dirs) Logs() string { return filepath.Join(d.Data, "logs") }

// Records is where the background programs of the lab are on record.
func (d Dirs) Records() string { return filepath.Join(d.Data, "run") }

// ManagerSocket is the UNIX socket of the manager's access API.
func (d Dirs) ManagerSocket() string { return filepath.Join(d.Runtime, "manager.sock") }

// Ensure makes the directories that are not there, and makes sure that the
// data and runtime directories are the user's own and closed to others
// (0700). It is idempotent.
func (d Dirs) Ensure() error {
	if err := d.checkRuntimeLength(); err != nil {
		return err
	}
	// The parent in /tmp is as easily planted by somebody else as its child.
	if parent := filepath.Dir(d.Runtime); filepath.Dir(parent) == "/tmp" {
		if err := private(parent); err != nil {
			return err
		}
	}
	for _, dir := range []string{d.Data, d.Runtime} {
		if err := private(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{d.Cache, d.Images(), d.ControlPlane(), d.Logs(), d.Records()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making a directory of the lab: %w", err)
		}
	}
	return nil
}

// private makes dir, or makes sure that it is a real directory of this user
// and that nobody else may enter it: sockets and keys below rely on it.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory of the lab: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at a directory of the lab: %w", err)
	}
	if link, err := os.Lstat(dir); err == nil && link.Mode()&fs.ModeSymlink != 0 && filepath.Dir(dir) == "/tmp" {
		return fmt.Errorf("%s is a symbolic link, and anybody could have put it there: remove it, or set %s", dir, EnvRuntime)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, not to user %d: set %s and %s to directories of your own",
			dir, stat.Uid, os.Getuid(), EnvData, EnvRuntime)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing a directory of the lab to others: %w", err)
	}
	return nil
}
