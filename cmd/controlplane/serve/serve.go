// SPDX-License-Identifier: Apache-2.0

// Package serve runs an embedded control plane: etcd, kube-apiserver, the
// garbage collector and the namespace controller in this process, reachable on
// 127.0.0.1 only.
//
// It fails if another instance uses its data directory, listens on no other
// address, and does not overwrite a kubeconfig that it did not write.
// Kubernetes keeps global state, so a process can call Run once.
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
	// readyTimeout is generous because a lab's guests may occupy the CPUs.
	readyTimeout = 3 * time.Minute
	// stopTimeout bounds the graceful shutdown of the API server.
	stopTimeout = 5 * time.Second
	// gcPercent saves a third of the memory for some CPU time under load.
	gcPercent = 40
)

// Options configures the control plane.
type Options struct {
	// DataDir is created with mode 0700 if missing.
	DataDir string
	// Kubeconfig is the file written once the API server is ready.
	Kubeconfig string
	// Port is the TCP port on 127.0.0.1. Zero selects the port of the previous
	// start; the first start uses 16443, or any free port if that is in use.
	Port int
	// Verbose enables the log of the Kubernetes libraries.
	Verbose bool
	// Log receives one line per step.
	Log *slog.Logger
}

func (o Options) validate() error {
	switch {
	case o.DataDir == "":
		return errors.New("--data-dir is required: set the directory for keys and objects")
	case o.Kubeconfig == "":
		return errors.New("--kubeconfig is required: set the file for the admin's kubeconfig")
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("--port is %d, must be between 0 and 65535", o.Port)
	}
	return nil
}

// Run serves until ctx is done, then stops in order and returns nil. It returns
// an error if it cannot start or if etcd or the API server stops unexpectedly.
//
// If ctx is done or an error occurs during the start, Run returns at once and
// leaves what it has started to the end of the process, which must follow.
func Run(ctx context.Context, opts Options) error {
	started := time.Now()
	s := &server{Options: opts}
	err := s.start(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.admin.Write(opts.Kubeconfig); err != nil {
		return err
	}
	opts.Log.Info("ready", "server", s.admin.Server, "kubeconfig", opts.Kubeconfig,
		"after", time.Since(started).Round(10*time.Millisecond))
	trimMemory()

	select {
	case <-ctx.Done():
		opts.Log.Info("stopping")
		return nil
	case err := <-s.db.failed():
		return fmt.Errorf("etcd stopped unexpectedly: %w", err)
	case <-s.api.done:
		return fmt.Errorf("kube-apiserver stopped unexpectedly: %w", s.api.err)
	}
}

// server contains what Run has acquired and started, in that order.
type server struct {
	Options
	lock        *datadir.Lock
	keys        pki.Bundle
	listener    *datadir.Listener
	admin       kubeconfig.Admin
	db          *database
	api         *apiServer
	controllers *controllers
}

// start returns once clients can connect. After an error it stops nothing: an
// API server that is stopped before it is ready treats that as a fatal failure
// of its post-start hooks, and etcd survives the end of the process.
func (s *server) start(ctx context.Context) (err error) {
	if err := s.validate(); err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return err
	}
	if s.db, err = startEtcd(ctx, filepath.Join(s.DataDir, "etcd")); err != nil {
		return err
	}
	// From here on nothing stops by ctx itself: stopping has an order.
	running := context.WithoutCancel(ctx)
	s.api, err = startAPIServer(running, apiServerConfig{etcd: s.db.endpoint, listener: s.listener, keys: s.keys})
	if err != nil {
		return errors.Join(err, s.db.removeScratch())
	}
	if err := s.waitReady(ctx); err != nil {
		return errors.Join(err, s.db.removeScratch())
	}
	s.controllers, err = startControllers(running, clientConfig(s.admin))
	return err
}

// stop stops what start started. The process holds the lock until it exits, and
// so longer than anything it protects.
func (s *server) stop() {
	s.controllers.stop()
	s.api.stop()
	s.db.stop()
}

// trimMemory frees the memory that only the start needed, which is far more than
// serving needs, and keeps the heap small from then on. The start is faster
// without the limit.
func trimMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	debug.FreeOSMemory()
}

// prepare acquires the lock, the keys and the port, so that configuration errors
// are found before anything is started.
func (s *server) prepare() (err error) {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w", err)
	}
	if s.lock, err = datadir.AcquireLock(s.DataDir); err != nil {
		return err
	}
	if err := kubeconfig.Remove(s.Kubeconfig); err != nil {
		return err
	}
	if s.keys, err = pki.Ensure(filepath.Join(s.DataDir, "pki"), time.Now()); err != nil {
		return err
	}
	for _, what := range s.keys.Renewed {
		s.Log.Info("generated a new key", "what", what)
	}
	if s.listener, err = datadir.Listen(filepath.Join(s.DataDir, "port"), s.Port); err != nil {
		return err
	}
	s.admin, err = readAdmin(s.listener.Addr().String(), s.keys)
	return err
}

// waitReady returns nil once the API server reports ready over the same
// connection that clients use.
func (s *server) waitReady(ctx context.Context) error {
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
		case err := <-s.db.failed():
			return fmt.Errorf("etcd stopped while starting: %w", err)
		case <-s.api.done:
			return fmt.Errorf("kube-apiserver stopped while starting: %w", s.api.err)
		case <-limit.C:
			return fmt.Errorf("kube-apiserver was not ready within %s; last response: %s", readyTimeout, probe.last)
		case <-tick.C:
		}
	}
}
