// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/cmd/kind-lab/internal/engine"
)

// ownEngine is the private engine that all labs with this cache directory share,
// because its images are large.
func (a *app) ownEngine() engine.Engine {
	e := engine.Engine{Dir: filepath.Join(a.dirs.Cache, "kind", "engine")}
	if os.Geteuid() != 0 {
		e.Group = os.Getgid()
	}
	return e
}

// engineLock is held shared while a cluster is created, which may have no
// container yet, and exclusively while the engine is stopped.
func (a *app) engineLock() (*flock.Flock, error) {
	dir := filepath.Dir(a.ownEngine().Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return flock.New(filepath.Join(dir, "engine.lock"), flock.SetPermissions(0o600)), nil
}

// useEngine prevents the private engine from being stopped until release is
// called. It waits for the lock.
func (a *app) useEngine(ctx context.Context) (release func(), err error) {
	lock, err := a.engineLock()
	if err != nil {
		return nil, err
	}
	if _, err := lock.TryRLockContext(ctx, 200*time.Millisecond); err != nil {
		return nil, fmt.Errorf("locking %s to use the engine: %w", lock.Path(), err)
	}
	return func() { _ = lock.Close() }, nil
}

// lockEngine prevents use of the private engine until release is called. It waits
// up to timeout for current users, and returns exclusive=false if there still are
// any.
func (a *app) lockEngine(ctx context.Context, timeout time.Duration) (release func(), exclusive bool, err error) {
	lock, err := a.engineLock()
	if err != nil {
		return nil, false, err
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := lock.TryLockContext(waiting, 200*time.Millisecond); err == nil {
		return func() { _ = lock.Close() }, true, nil
	} else if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil, false, fmt.Errorf("locking %s to stop the engine: %w", lock.Path(), err)
	}
	return nil, false, lock.Close()
}

// network is the name of the cluster's Docker network.
func (a *app) network() string {
	if a.name == "pxelab" {
		return "pxelab"
	}
	return "pxelab-" + a.name
}

// runningEngine returns the running engine: the private one if it runs, because
// the cluster is then in it, else the user's, or nil without an error.
func (a *app) runningEngine(ctx context.Context) (*docker, error) {
	own := a.ownEngine()
	_, alive, err := own.Running()
	if err != nil {
		return nil, err
	}
	d := &docker{reachable: true}
	switch {
	case alive && own.Answers(ctx):
		d.own = &own
	case alive: // It is starting or being killed.
		return nil, nil
	case answers(ctx) != nil:
		return nil, nil
	}
	return d, d.use(a.network())
}

// client returns the engine, or one with which only registries can be queried. It
// installs Docker if necessary, but starts nothing.
func (a *app) client(ctx context.Context) (*docker, error) {
	d, err := a.runningEngine(ctx)
	if d != nil || err != nil {
		return d, err
	}
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("connecting to a Docker engine: %w; start Docker", answers(ctx))
	}
	if err := a.installEngine(ctx); err != nil {
		return nil, err
	}
	// On a host with an init system the package may have started an engine.
	if d, err = a.runningEngine(ctx); d != nil || err != nil {
		return d, err
	}
	return &docker{}, nil
}

// engine returns the running engine, or starts the private one.
func (a *app) engine(ctx context.Context) (*docker, error) {
	d, err := a.client(ctx)
	if err != nil || d.reachable {
		return d, err
	}
	own := a.ownEngine()
	a.logf("no Docker engine is running; starting a private one, log file %s", own.Log())
	if err := a.asRoot(ctx, "start", own); err != nil {
		return nil, err
	}
	d = &docker{own: &own, reachable: true}
	return d, d.use(a.network())
}

// installEngine installs Docker unless its programs exist.
func (a *app) installEngine(ctx context.Context) error {
	missing := false
	for _, program := range []string{"dockerd", "docker", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(a.root, "hack", "deps", "install.sh"), "docker")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("installing Docker with hack/deps/install.sh docker: %w", err)
	}
	return nil
}

// asRoot runs "engine start", "stop" or "clean", in this process if it is root,
// else with sudo.
func (a *app) asRoot(ctx context.Context, action string, e engine.Engine) error {
	if os.Geteuid() == 0 {
		return control(ctx, action, e)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return fmt.Errorf("starting a private engine requires root and sudo is missing; start Docker, or run this command as root")
	}
	cmd := exec.CommandContext(ctx, sudo, self, "engine", action, "--dir", e.Dir, "--group", strconv.Itoa(e.Group))
	cmd.Stdin = os.Stdin
	cmd.Stdout = os.Stderr
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running \"engine %s\" with sudo: %w", action, err)
	}
	return nil
}

func control(ctx context.Context, action string, e engine.Engine) (err error) {
	if err := os.MkdirAll(e.Dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(e.Dir, "lock"))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("locking %s to %s the engine: %w", lock.Path(), action, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	switch action {
	case "start":
		return e.Start(ctx)
	case "clean":
		return errors.Join(e.Stop(ctx), os.RemoveAll(e.Dir))
	default:
		return e.Stop(ctx)
	}
}

// engineCommand is the hidden command that this program runs as root.
func engineCommand() *cobra.Command {
	root := &cobra.Command{Use: "engine", Short: "Start, stop and remove the private engine", Hidden: true}
	var e engine.Engine
	for _, action := range []string{"start", "stop", "clean"} {
		cmd := &cobra.Command{
			Use:  action,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return control(cmd.Context(), action, e) },
		}
		cmd.Flags().StringVar(&e.Dir, "dir", "", "directory of the engine")
		cmd.Flags().IntVar(&e.Group, "group", 0, "ID of the group that may use the engine besides root")
		_ = cmd.MarkFlagRequired("dir")
		root.AddCommand(cmd)
	}
	root.AddCommand(&cobra.Command{
		Use:  "init DOCKERD [ARGUMENTS]",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			status, err := engine.Init(args)
			if err == nil {
				os.Exit(status)
			}
			return err
		},
	})
	return root
}
