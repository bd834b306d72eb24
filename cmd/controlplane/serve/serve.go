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
//
// Told to stop while starting, or failing to start, it returns at once and
// leaves what it had begun to the end of the process, which must follow.
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
	opts.Log.Info("ready", "server", s.admin.Server, "kubeconfig", opts.Kubeconfig, "after", time.Since(started).Round(10*time.Millisecond))
	settle()

	select {
	case <-ctx.Done():
		opts.Log.Info("stopping")
		return nil
	case err := <-s.db.failed():
		return fmt.Errorf("etcd ended by itself: %w", err)
	case <-s.api.done:
		return fmt.Errorf("kube-apiserver ended by itself: %w", s.api.err)
	}
}

// server is what Run got hold of, in order.
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

// start returns when clients can be let in. After an error nothing is stopped:
// an API server that is told to end before it is up takes that for a fatal
// failure of its start hooks, and etcd is made to survive the end of a process.
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
	// From here on nothing ends by ctx itself: stopping has an order.
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

// stop ends what start started. The lock goes with the process, after all that
// it guards.
func (s *server) stop() {
	s.controllers.stop()
	s.api.stop()
	s.db.stop()
}

// settle gives back the memory that starting took, far more than serving does,
// and keeps the heap small from here on. Starting itself is quicker without.
func settle() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	debug.FreeOSMemory()
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
			return fmt.Errorf("etcd ended while starting: %w", err)
		case <-s.api.done:
			return fmt.Errorf("kube-apiserver ended while starting: %w", s.api.err)
		case <-limit.C:
			return fmt.Errorf("kube-apiserver did not become ready within %s; it last said: %s", readyTimeout, probe.last)
		case <-tick.C:
		}
	}
}
