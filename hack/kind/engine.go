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

	"github.com/pxelab/pxelab/hack/kind/internal/engine"
)

// ownEngine is the one that all labs with this cache directory share: images
// are what is large about it.
func (a *app) ownEngine() engine.Engine {
	e := engine.Engine{Dir: filepath.Join(a.dirs.Cache, "kind", "engine")}
	if os.Geteuid() != 0 {
		e.Group = os.Getgid()
	}
	return e
}

// engineLock is held by whoever makes a cluster, which may have no container yet,
// and alone by whoever ends the engine.
func (a *app) engineLock() (*flock.Flock, error) {
	dir := filepath.Dir(a.ownEngine().Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return flock.New(filepath.Join(dir, "engine.lock"), flock.SetPermissions(0o600)), nil
}

// useEngine keeps an engine of ours from being ended until release is called.
func (a *app) useEngine(ctx context.Context) (release func(), err error) {
	lock, err := a.engineLock()
	if err != nil {
		return nil, err
	}
	if _, err := lock.TryRLockContext(ctx, 200*time.Millisecond); err != nil {
		return nil, fmt.Errorf("locking %s, to use the engine: %w", lock.Path(), err)
	}
	return func() { _ = lock.Close() }, nil
}

// endEngine tells whether nobody uses an engine of ours, and lets nobody begin to
// until release is called. It waits for those who use it, for as long as patience.
func (a *app) endEngine(ctx context.Context, patience time.Duration) (release func(), alone bool, err error) {
	lock, err := a.engineLock()
	if err != nil {
		return nil, false, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := lock.TryLockContext(waiting, 200*time.Millisecond); err == nil {
		return func() { _ = lock.Close() }, true, nil
	} else if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil, false, fmt.Errorf("locking %s, to end the engine: %w", lock.Path(), err)
	}
	return nil, false, lock.Close()
}

// network is the cluster's, by name.
func (a *app) network() string {
	if a.name == "pxelab" {
		return "pxelab"
	}
	return "pxelab-" + a.name
}

// runningEngine finds the engine that is there: ours if it runs, because then
// the cluster is in it, else the user's. Nil without an error means none.
func (a *app) runningEngine(ctx context.Context) (*docker, error) {
	own := a.ownEngine()
	_, alive, err := own.Running()
	if err != nil {
		return nil, err
	}
	d := &docker{there: true}
	switch {
	case alive && own.Answers(ctx):
		d.own = &own
	case alive: // It starts, or it is just being killed.
		return nil, nil
	case answers(ctx) != nil:
		return nil, nil
	}
	return d, d.use(a.network())
}

// client finds the engine, or at least makes sure that there is what to ask a
// registry with. It starts nothing.
func (a *app) client(ctx context.Context) (*docker, error) {
	d, err := a.runningEngine(ctx)
	if d != nil || err != nil {
		return d, err
	}
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("no Docker engine answers; start Docker: %w", answers(ctx))
	}
	if err := a.installEngine(ctx); err != nil {
		return nil, err
	}
	// On a host with an init system the package may have started one.
	if d, err = a.runningEngine(ctx); d != nil || err != nil {
		return d, err
	}
	return &docker{}, nil
}

// engine finds the engine, or starts one of our own.
func (a *app) engine(ctx context.Context) (*docker, error) {
	d, err := a.client(ctx)
	if err != nil || d.there {
		return d, err
	}
	own := a.ownEngine()
	a.say("no Docker engine runs here: starting one of our own, which logs to %s", own.Log())
	if err := a.asRoot(ctx, "start", own); err != nil {
		return nil, err
	}
	d = &docker{own: &own, there: true}
	return d, d.use(a.network())
}

// installEngine makes sure that the programs are there.
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
		return fmt.Errorf("installing Docker (hack/deps/install.sh docker): %w", err)
	}
	return nil
}

// asRoot runs "engine start", "stop" or "clean", in this process if it is root's.
func (a *app) asRoot(ctx context.Context, what string, e engine.Engine) error {
	if os.Geteuid() == 0 {
		return control(ctx, what, e)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return fmt.Errorf("an engine of our own needs root, and there is no sudo here: start Docker, or run this as root")
	}
	cmd := exec.CommandContext(ctx, sudo, self, "engine", what, "--dir", e.Dir, "--group", strconv.Itoa(e.Group))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("engine %s, by sudo: %w", what, err)
	}
	return nil
}

func control(ctx context.Context, what string, e engine.Engine) (err error) {
	if err := os.MkdirAll(e.Dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(e.Dir, "lock"))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("locking %s, to end the engine: %w", lock.Path(), err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	switch what {
	case "start":
		return e.Start(ctx)
	case "clean":
		return errors.Join(e.Stop(ctx), os.RemoveAll(e.Dir))
	default:
		return e.Stop(ctx)
	}
}

// engineCommand is what this program calls itself with.
func engineCommand() *cobra.Command {
	root := &cobra.Command{Use: "engine", Short: "Start, stop and remove an engine of our own", Hidden: true}
	var e engine.Engine
	for _, what := range []string{"start", "stop", "clean"} {
		cmd := &cobra.Command{
			Use:  what,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return control(cmd.Context(), what, e) },
		}
		cmd.Flags().StringVar(&e.Dir, "dir", "", "the engine's directory")
		cmd.Flags().IntVar(&e.Group, "group", 0, "who may use it, next to root")
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
