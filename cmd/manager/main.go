// SPDX-License-Identifier: Apache-2.0

// Command manager runs pxelab's reconcilers on the host that runs the labs'
// virtual machines. In network mode Userspace it needs no privileges beyond its
// user's. Machines keep running when it exits, and the next manager adopts them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/metrics"
	"github.com/pxelab/pxelab/internal/netbootapi/session"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/version"
)

type options struct {
	dirs        paths.Dirs
	imagesDir   string
	programsDir string
	metrics     string
	probes      string
	access      string
	// accessService is NAMESPACE/NAME, or empty.
	accessService string
	pprof         string
	// stopMachines shuts the machines down when the manager exits.
	stopMachines bool
	lease        string
	// namespaces are those that the manager watches; none means all.
	namespaces    []string
	artifactGrace time.Duration
	artifactFloor resource.Quantity
	// artifactNetwork restricts where artifacts are downloaded from.
	artifactNetwork artifact.Network
	orphanGrace     time.Duration
	bridges         []string
	limits          plan.Limits
	// budget is where limits.Memory is from, for the log.
	budget      string
	showVersion bool
}

func main() {
	// Files that the manager and QEMU create are private to this user.
	syscall.Umask(0o077)
	o, err := parse()
	if err == nil && o.showVersion {
		fmt.Println(version.String())
		return
	}
	if err == nil {
		err = run(ctrl.SetupSignalHandler(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	dirs, err := paths.Default()
	if err != nil {
		return options{}, err
	}
	o := options{dirs: dirs}
	programs, err := os.Executable()
	if err != nil {
		return options{}, fmt.Errorf("finding this program's executable: %w", err)
	}
	flag.StringVar(&o.dirs.Data, "data-dir", dirs.Data, "directory for machines and artifacts")
	flag.StringVar(&o.dirs.Runtime, "runtime-dir", dirs.Runtime, "short directory for sockets")
	flag.StringVar(&o.imagesDir, "images-dir", dirs.Images(), "directory that relative paths of artifacts refer to")
	flag.StringVar(&o.programsDir, "programs-dir", filepath.Dir(programs), "directory with netbootd-linux-ARCH, installer-linux-ARCH and simulator")
	flag.StringVar(&o.metrics, "metrics-bind-address", "0", "address of the metrics endpoint, HOST:PORT; 0 disables it")
	flag.StringVar(&o.probes, "health-probe-bind-address", "0", "address of the health endpoints, HOST:PORT; 0 disables them")
	accessFlags(&o)
	flag.BoolVar(&o.stopMachines, "stop-machines", false, "shut the machines down on exit; needed in a pod, which ends with all its processes")
	flag.StringVar(&o.lease, "lease-namespace", leaseNamespace(),
		"namespace of the lease that excludes managers of other data directories from the cluster")
	namespacesFlag(&o)
	flag.DurationVar(&o.artifactGrace, "artifact-grace", 24*time.Hour,
		"how long an artifact is kept that no object refers to; 0 keeps it for ever")
	o.artifactFloor = resource.MustParse("2Gi")
	flag.Func("artifact-floor", "free disk space below which such artifacts are removed earlier, oldest first; 0 disables it (default 2Gi)",
		func(text string) (err error) {
			o.artifactFloor, err = resource.ParseQuantity(text)
			return err
		})
	flag.DurationVar(&o.orphanGrace, "orphan-grace", time.Hour,
		"how long a machine without an object is kept before it is removed; 0 keeps it for ever")
	if err := errors.Join(artifactFlags(&o.artifactNetwork), bridgeFlag(&o)); err != nil {
		return options{}, err
	}
	limitFlags(&o)
	flag.StringVar(&o.pprof, "pprof-bind-address", "", "loopback address of Go's profiles, HOST:PORT; empty disables them")
	flag.BoolVar(&o.showVersion, "version", false, "print the version and exit")
	zapOptions := zap.Options{}
	zapOptions.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&zapOptions)))
	err = errors.Join(checkPprof(o.pprof), checkAccess(o), checkHousekeeping(o), o.limits.Check(), defaultBudget(&o))
	return o, err
}

func run(ctx context.Context, o options) (err error) {
	// An idle manager has little live memory and CPU time to spare: collecting
	// garbage early keeps it small.
	debug.SetGCPercent(50)
	log := ctrl.Log.WithName("manager")
	if err := o.dirs.Ensure(); err != nil {
		return err
	}
	directory, err := ownership.AcquireDirectory(o.dirs.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Release()) }()

	recorder := metrics.NewRecorder()
	mgr, cluster, err := newManager(ctx, o, directory, recorder)
	if err != nil {
		return err
	}
	machines, closeMachines, err := newMachines(o, recorder)
	if err != nil {
		return err
	}
	defer closeMachines()
	library, closeStore, err := newLibrary(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	networks := labnet.New(slog.New(logr.ToSlogHandler(ctrl.Log.WithName("network"))), o.bridges...)
	defer func() { err = errors.Join(err, networks.Close()) }()

	var set *controllers.Set
	hub := session.NewHub(session.Options{
		Log:             ctrl.Log.WithName("session"),
		Epoch:           cluster.Epoch(),
		ServerChanged:   func(server string) { set.ServerObserved(server) },
		MachinesChanged: func(uids []string) { set.TargetsObserved(uids) },
		Event:           session.EventLog(ctrl.Log.WithName("netbootd")),
	})
	defer hub.Close()
	host := &controllers.Host{
		Machines: machines, Networks: networks, Sessions: hub, Content: library, Artifacts: library,
		Cluster: cluster.ID(), Namespaces: o.namespaces, Housekeeping: controllers.Housekeeping{
			Interval: time.Minute, ArtifactGrace: o.artifactGrace, ArtifactFloor: o.artifactFloor.Value(), OrphanGrace: o.orphanGrace},
		Capacity: controllers.NewCapacity(o.limits),
		DataDir:  o.dirs.Data, RuntimeDir: o.dirs.Runtime, RetainedDir: filepath.Join(o.dirs.Data, "retained"),
		Bridges: o.bridges, JumboFrames: labnet.JumboFrames(), Now: time.Now, Metrics: recorder, DigestKey: directory.Key,
	}
	if set, err = controllers.Setup(mgr, host); err != nil {
		return err
	}
	defer set.Close()
	sources := metrics.Sources{Objects: mgr.GetCache(), Networks: networks, Store: library, Netbootd: hub, Reconciles: set}
	if err := errors.Join(addMetrics(recorder, sources), addChecks(mgr, set)); err != nil {
		return err
	}
	if err := addAccess(mgr, o, &controllers.Access{Client: mgr.GetClient(), Host: host, Dialer: hub, Set: set}); err != nil {
		return err
	}
	log.Info("Starting", "version", version.String(), "data", o.dirs.Data, "images", o.imagesDir, "socket", o.dirs.ManagerSocket(),
		"memoryBudget", plan.Bytes(o.limits.Memory), "memoryBudgetOf", o.budget, "maxInstallations", o.limits.Installations)
	err = mgr.Start(ctx)
	if o.stopMachines {
		err = errors.Join(err, shutDown(mgr, machines, o.namespaces, err))
	}
	return err
}

// newManager connects to the cluster and claims it for the data directory.
// recorder counts its writes.
func newManager(
	ctx context.Context, o options, directory *ownership.Directory, recorder *metrics.Recorder,
) (ctrl.Manager, *ownership.Cluster, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, nil, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("finding the cluster: %w; set KUBECONFIG or --kubeconfig", err)
	}
	config.Wrap(recorder.CountWrites)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Cache:                  cache.Options{ByObject: controllers.CacheByObject(), DefaultNamespaces: controllers.CacheNamespaces(o.namespaces)},
		Metrics:                metricsserver.Options{BindAddress: o.metrics},
		HealthProbeBindAddress: o.probes,
		PprofBindAddress:       o.pprof,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	direct, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	cluster, err := ownership.AcquireCluster(ctx, ownership.ClusterOptions{
		Client: direct, Namespace: o.lease, Directory: directory, Ephemeral: o.stopMachines, Log: ctrl.Log.WithName("ownership"),
	})
	if err != nil {
		return nil, nil, err
	}
	return mgr, cluster, mgr.Add(cluster)
}
