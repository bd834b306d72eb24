// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pxelab/pxelab/cmd/controlplane/internal/atomicfile"
	"github.com/pxelab/pxelab/cmd/controlplane/internal/datadir"
)

const (
	etcdTimeout      = 2 * time.Minute
	etcdCloseTimeout = 200 * time.Millisecond
)

// database is a single-member etcd without a TCP port.
type database struct {
	endpoint string // for kube-apiserver's --etcd-servers
	etcd     *embed.Etcd
	scratch  string // directory that stop removes, if not empty
	logLevel zap.AtomicLevel
}

// startEtcd returns once etcd is ready. dir, created with mode 0700, contains
// its objects; dir.new exists briefly during the first start.
func startEtcd(ctx context.Context, dir string) (*database, error) {
	if err := initEtcd(ctx, dir); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("restricting etcd's directory to its owner: %w", err)
	}
	return openEtcd(ctx, dir, zap.ErrorLevel)
}

// initEtcd makes dir contain an empty but complete etcd database. An etcd killed
// before it is first ready leaves a directory from which it never starts again,
// so the database is initialised in another directory, which is then renamed.
func initEtcd(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fresh := dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o700)); err != nil {
		return fmt.Errorf("creating etcd's directory: %w", err)
	}
	// Stopped this early, etcd logs errors; real failures are returned.
	db, err := openEtcd(ctx, fresh, zap.FatalLevel)
	if err != nil {
		return err
	}
	db.stop()
	if err := atomicfile.Rename(fresh, dir); err != nil {
		return fmt.Errorf("creating etcd's directory: %w", err)
	}
	return nil
}

func openEtcd(ctx context.Context, dir string, level zapcore.Level) (*database, error) {
	socket, scratch, err := datadir.SocketPath(dir)
	if err != nil {
		return nil, err
	}
	db := &database{endpoint: "unix://" + socket, scratch: scratch, logLevel: zap.NewAtomicLevelAt(level)}
	config := etcdConfig(dir, socket)
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newEtcdLogger(db.logLevel))
	db.etcd, err = embed.StartEtcd(config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting etcd in %s: %w", dir, err), db.removeScratch())
	}
	limit := time.NewTimer(etcdTimeout)
	defer limit.Stop()
	select {
	case <-db.etcd.Server.ReadyNotify():
		return db, nil
	case err = <-db.etcd.Err():
		err = fmt.Errorf("etcd in %s stopped while starting: %w", dir, err)
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = fmt.Errorf("etcd in %s was not ready within %s", dir, etcdTimeout)
	}
	db.stop()
	return nil, err
}

func etcdConfig(dir, socket string) *embed.Config {
	c := embed.NewConfig()
	c.Name = "pxelab"
	c.Dir = dir
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// There are no peers: the default advertised URLs are recorded but unused.
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	c.EnableGRPCGateway = false
	// A single member elects itself as soon as its timer fires.
	c.TickMs, c.ElectionMs = 50, 250
	// Keep little history in memory and on disk; the defaults are for clusters.
	c.SnapshotCount = 2000
	c.SnapshotCatchUpEntries = 100
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	// kube-apiserver compacts every five minutes; free the space at start.
	c.BootstrapDefragThresholdMegabytes = 32
	return c
}

// newEtcdLogger returns a logger to stderr whose level can be changed.
func newEtcdLogger(level zap.AtomicLevel) *zap.Logger {
	config := logutil.DefaultZapLoggerConfig
	config.Level = level
	config.OutputPaths, config.ErrorOutputPaths = []string{"stderr"}, []string{"stderr"}
	logger, err := config.Build()
	if err != nil {
		return zap.NewNop() // stderr cannot be opened
	}
	return logger
}

// failed delivers an error when etcd stops without being asked to.
func (d *database) failed() <-chan error { return d.etcd.Err() }

// stop stops etcd with all acknowledged writes on disk. It blocks and is
// idempotent.
func (d *database) stop() {
	// etcd logs the closing of its own listener as an error.
	d.logLevel.SetLevel(zap.FatalLevel)
	d.etcd.Server.Stop()
	// Close then waits for clients, and the API server's do not all disconnect.
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		d.etcd.Close()
	}()
	limit := time.NewTimer(etcdCloseTimeout)
	defer limit.Stop()
	select {
	case <-closed:
	case <-limit.C:
	}
	_ = d.removeScratch() // an empty directory under TMPDIR
}

func (d *database) removeScratch() error {
	if d.scratch == "" {
		return nil
	}
	return os.RemoveAll(d.scratch)
}
