// SPDX-License-Identifier: Apache-2.0

// Package serve runs an embedded control plane: etcd, kube-apiserver, the
// garbage collector and the namespace controller in this process, reachable on
// 127.0.0.1 only.
//
// It refuses to share its data directory with a second instance, to listen
// anywhere else, and to overwrite a kubeconfig it did not write. Since
// Kubernetes keeps global state, a process can Run once.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/datadir"
	"github.com/pxelab/pxelab/cmd/controlplane/internal/kubeconfig"
	"github.com/pxelab/pxelab/cmd/controlplane/internal/pki"
)

const (
	// readyTimeout is generous because a lab's guests may have the CPUs.
	readyTimeout = 3 * time.Minute
	// stopTimeout bounds the graceful end of the API server.
	stopTimeout = 5 * time.Second
	// gcPercent trades some CPU time while busy for a third of the memory.
	gcPercent = 40
)

// Options say where to keep things and where to listen.
type Options struct {
	// DataDir is made with mode 0700 when absent.
	DataDir string
	// Kubeconfig is written when ready.
	Kubeconfig string
	// Port on 127.0.0.1. Zero means the port of the last start; the first
	// start takes 16443, or any free one when that is taken.
	Port int
	// Verbose shows what the libraries log.
	Verbose bool
	// Log gets a line per step.
	Log *slog.Logger
}

func (o Options) validate() error {
	switch {
	case o.DataDir == "":
		return errors.New("--data-dir is missing: give the directory that shall hold keys and objects")
	case o.Kubeconfig == "":
		return errors.New("--kubeconfig is missing: give the file to write the admin's kubeconfig to")
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("--port %d is not between 0 and 65535", o.Port)
	}
	return nil
}

// Run serves until ctx ends, then stops in order and returns nil. It returns an
// error when it can't start or when etcd or the API server ends by itself.
func Run(ctx context.Context, opts Options) (err error) {
	started := time.Now()
	if err := opts.validate(); err != nil {
		return err
	}
	s := &server{Options: opts}
	if err := s.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lock.Release()) }()

	// Nothing in here ends by ctx itself: stopping has an order.
	running := context.WithoutCancel(ctx)
	db, err := startEtcd(ctx, filepath.Join(opts.DataDir, "etcd"))
	if err != nil {
		return stoppedEarly(ctx, err)
	}
	defer db.stop()
	api, err := startAPIServer(running, apiServerConfig{
		etcd: db.endpoint, listener: s.listener, keys: s.keys,
	})
	if err != nil {
		return stoppedEarly(ctx, err)
	}
	defer api.stop()
	if err := s.waitReady(ctx, db, api); err != nil {
		return stoppedEarly(ctx, err)
	}
	controllers, err := startControllers(running, clientConfig(s.admin))
	if err != nil {
		return err
	}
	defer controllers.stop()
	if err := s.admin.Write(opts.Kubeconfig); err != nil {
		return err
	}
	opts.Log.Info("ready", "server", s.admin.Server, "kubeconfig", opts.Kubeconfig, "after", time.Since(started).Round(10*time.Millisecond))
	settle()

	select {
	case <-ctx.Done():
		opts.Log.Info("stopping")
		return nil
	case err := <-db.failed():
		return fmt.Errorf("etcd ended by itself: %w", err)
	case <-api.done:
		return fmt.Errorf("kube-apiserver ended by itself: %w", api.err)
	}
}

// settle gives back the memory that starting took, far more than serving does,
// and keeps the heap small from here on. Starting itself is quicker without.
func settle() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	debug.FreeOSMemory()
}

// stoppedEarly makes a start that failed because it was told to stop a success.
func stoppedEarly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// server is what prepare got hold of.
type server struct {
	Options
	lock     *datadir.Lock
	keys     pki.Bundle
	listener *datadir.Listener
	admin    kubeconfig.Admin
}

// prepare takes the lock, the keys and the port, so that everything a user can
// get wrong fails before anything is started.
func (s *server) prepare() (err error) {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if s.lock, err = datadir.AcquireLock(s.DataDir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Release())
		}
	}()
	if err := kubeconfig.Remove(s.Kubeconfig); err != nil {
		return err
	}
	if s.keys, err = pki.Ensure(filepath.Join(s.DataDir, "pki"), time.Now()); err != nil {
		return err
	}
	for _, what := range s.keys.Renewed {
		s.Log.Info("made a new key", "what", what)
	}
	if s.listener, err = datadir.Listen(filepath.Join(s.DataDir, "port"), s.Port); err != nil {
		return err
	}
	s.admin, err = readAdmin(s.listener.Addr().String(), s.keys)
	return err
}

// waitReady returns nil when the API server says it is ready, over the very way
// a client takes.
func (s *server) waitReady(ctx context.Context, db *database, api *apiServer) error {
	probe, err := newProbe(s.admin)
	if err != nil {
		return err
	}
	defer probe.close()
	limit := time.NewTimer(readyTimeout)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if probe.ready(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-db.failed():
			return fmt.Errorf("etcd ended while starting: %w", err)
		case <-api.done:
			return fmt.Errorf("kube-apiserver ended while starting: %w", api.err)
		case <-limit.C:
			return fmt.Errorf("kube-apiserver did not become ready within %s; it last said: %s", readyTimeout, probe.last)
		case <-tick.C:
		}
	}
}
