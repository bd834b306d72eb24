// SPDX-License-Identifier: Apache-2.0

// Package paths defines where a lab stores its files on the host. All programs of
// the project use it, so that they agree without configuration.
//
// It defines only the directories that programs share: internal/qemu defines the
// layout below machines/, internal/artifact that below artifacts/.
package paths

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// Environment variables that override the directories of a lab.
const (
	EnvData    = "PXELAB_DATA_DIR"
	EnvCache   = "PXELAB_CACHE_DIR"
	EnvRuntime = "PXELAB_RUNTIME_DIR"
)

// maxRuntime is the maximum length of the runtime directory's path. It leaves 35
// bytes for the longest name of a socket below it.
const maxRuntime = hostfs.MaxSocketPath - 35

// Dirs are the directories of one lab. Labs with different Data and Runtime
// directories are independent; they may share Cache.
type Dirs struct {
	// Data holds persistent state: objects, artifacts, machines, logs.
	Data string
	// Cache holds large build outputs by digest, and the image folder. All of it
	// can be regenerated.
	Cache string
	// Runtime holds sockets. Its path must be short; it may be deleted on reboot.
	Runtime string
}

// Default returns the directories of the calling user's lab, from the PXELAB_*
// environment variables or else the XDG base directory specification, on Linux and
// macOS. It does not access files.
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
		// The specification requires relative values to be ignored.
		if dir := getenv(xdg); filepath.IsAbs(dir) {
			return filepath.Join(dir, "pxelab"), nil
		}
		h, err := home()
		if err != nil {
			return "", fmt.Errorf("finding the directories of the lab: %w; set %s", err, env)
		}
		return filepath.Join(h, inHome, "pxelab"), nil
	}
	// The runtime directory must not depend on a home directory.
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
	return fmt.Errorf("the runtime directory %s is %d bytes long; UNIX sockets allow at most %d: set %s to a shorter path",
		d.Runtime, len(d.Runtime), maxRuntime, EnvRuntime)
}

// Images is the lab's image folder, to which the paths of artifacts are relative.
func (d Dirs) Images() string { return filepath.Join(d.Cache, "images") }

// ControlPlane is the data directory of the embedded control plane.
func (d Dirs) ControlPlane() string { return filepath.Join(d.Data, "controlplane") }

// Kubeconfig is the admin kubeconfig that the embedded control plane writes.
func (d Dirs) Kubeconfig() string { return filepath.Join(d.ControlPlane(), "kubeconfig") }

// Logs is the directory of the background programs' logs.
func (d Dirs) Logs() string { return filepath.Join(d.Data, "logs") }

// Records is the directory of the background programs' process records.
func (d Dirs) Records() string { return filepath.Join(d.Data, "run") }

// ManagerSocket is the UNIX socket of the manager's access API.
func (d Dirs) ManagerSocket() string { return filepath.Join(d.Runtime, "manager.sock") }

// Ensure creates missing directories, and ensures that the data and runtime
// directories are owned by the user and accessible only to it (0700). It is
// idempotent.
func (d Dirs) Ensure() error {
	if err := d.checkRuntimeLength(); err != nil {
		return err
	}
	// Another user could have created the parent in /tmp as easily as its child.
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
			return fmt.Errorf("creating a directory of the lab: %w", err)
		}
	}
	return nil
}

// private makes dir a private directory of this user: the sockets and keys in it
// depend on that.
func private(dir string) error {
	if link, err := os.Lstat(dir); err == nil && link.Mode()&fs.ModeSymlink != 0 && filepath.Dir(dir) == "/tmp" {
		return fmt.Errorf("%s is a symbolic link that another user may have created: remove it or set %s", dir, EnvRuntime)
	}
	err := hostfs.PrivateDir(dir)
	if errors.Is(err, hostfs.ErrNotPrivate) {
		return fmt.Errorf("%w, selected by %s and %s", err, EnvData, EnvRuntime)
	}
	if err != nil {
		return fmt.Errorf("preparing the directories of the lab: %w", err)
	}
	return nil
}

// Checkout returns the closest directory, from the working directory upwards, that
// is a checkout of the project.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	const crds = "config/crd/bases"
	for {
		if _, err := os.Stat(filepath.Join(dir, crds)); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not in a checkout of pxelab: no " + crds + " here or in a parent directory; change to one")
		}
		dir = parent
	}
}
