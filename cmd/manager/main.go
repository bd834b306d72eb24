// SPDX-License-Identifier: Apache-2.0

// Command manager runs the reconcilers of pxelab on the computer that carries
// the labs' virtual machines. It needs no rights beyond its user's in network
// mode Userspace. Machines outlive it and are found again by the next.
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
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/claim"
	"github.com/pxelab/pxelab/internal/content"
	"github.com/pxelab/pxelab/internal/disk"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/qemu"
	"github.com/pxelab/pxelab/internal/session"
)

type options struct {
	dirs        paths.Dirs
	imagesDir   string
	programsDir string
	metrics     string
	probes      string
	access      string
	// stopMachines makes the machines end with the manager.
	stopMachines bool
	lease        string
}

func main() {
	// What the manager and QEMU make is for this user only.
	syscall.Umask(0o077)
	o, err := parse()
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
		return options{}, fmt.Errorf("finding my own place: %w", err)
	}
	flag.StringVar(&o.dirs.Data, "data-dir", dirs.Data, "directory that keeps machines and artifacts")
	flag.StringVar(&o.dirs.Runtime, "runtime-dir", dirs.Runtime, "short directory for sockets")
	flag.StringVar(&o.imagesDir, "images-dir", dirs.Images(), "folder in which artifacts' paths are looked up")
	flag.StringVar(&o.programsDir, "programs-dir", filepath.Dir(programs), "folder with netbootd-linux-ARCH and installer-linux-ARCH")
	flag.StringVar(&o.metrics, "metrics-bind-address", "0", "address of the metrics endpoint; 0 for none")
	flag.StringVar(&o.probes, "health-probe-bind-address", "0", "address of the health endpoints; 0 for none")
	flag.StringVar(&o.access, "access-bind-address", "", "loopback address, inside a pod, at which kubectl-lab is served besides the socket, HOST:PORT")
	flag.BoolVar(&o.stopMachines, "stop-machines", false, "shut the machines down at the end, as in a pod, which they cannot outlive")
	flag.StringVar(&o.lease, "lease-namespace", leaseNamespace(), "namespace of the lease that keeps managers of other data directories off the cluster")
	zapOptions := zap.Options{}
	zapOptions.BindFlags(flag.CommandLine)
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&zapOptions)))
	return o, nil
}

func run(ctx context.Context, o options) (err error) {
	// A manager at rest holds little that is live; collecting early keeps it
	// small, and it has time.
	debug.SetGCPercent(50)
	log := ctrl.Log.WithName("manager")
	if err := o.dirs.Ensure(); err != nil {
		return err
	}
	directory, err := claim.TakeDirectory(o.dirs.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Release()) }()

	mgr, err := newManager(ctx, o, directory)
	if err != nil {
		return err
	}
	machines, err := qemu.New(qemu.Options{DataDir: o.dirs.Data, RuntimeDir: o.dirs.Runtime, Log: ctrl.Log.WithName("qemu")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, machines.Close()) }()
	library, closeStore, err := newLibrary(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	networks := labnet.New(slog.New(logr.ToSlogHandler(ctrl.Log.WithName("network"))))
	defer func() { err = errors.Join(err, networks.Close()) }()

	var set *controllers.Set
	hub := session.NewHub(session.Options{
		Log:     ctrl.Log.WithName("session"),
		Changed: func(server string, machines []string) { set.Observed(server, machines) },
	})
	defer hub.Close()
	host := &controllers.Host{
		Machines: machines, Networks: networks, Sessions: hub, Content: library,
		DataDir: o.dirs.Data, RuntimeDir: o.dirs.Runtime, RetainedDir: filepath.Join(o.dirs.Data, "retained"),
		JumboFrames: labnet.JumboFrames(), Now: time.Now,
	}
	if set, err = controllers.Setup(mgr, host); err != nil {
		return err
	}
	defer set.Close()
	socket := o.dirs.ManagerSocket()
	door, err := access.New(access.Options{
		Socket: socket, Loopback: o.access, Backend: &controllers.Access{Client: mgr.GetClient(), Host: host, Dialer: hub}, Log: ctrl.Log.WithName("access"),
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(manager.RunnableFunc(door.Serve)); err != nil {
		return err
	}
	log.Info("Starting", "data", o.dirs.Data, "images", o.imagesDir, "socket", socket)
	err = mgr.Start(ctx)
	if o.stopMachines {
		err = errors.Join(err, shutDown(machines, log))
	}
	return err
}

// powerDownPatience is how long a guest may take to shut down; emulated ones
// are slow. The pod's terminationGracePeriodSeconds is longer.
const powerDownPatience = 90 * time.Second

// shutDown ends all machines when nothing can start them any more.
func shutDown(machines qemu.Runner, log logr.Logger) error {
	return qemu.StopAll(context.Background(), machines, qemu.StopOptions{ACPITimeout: powerDownPatience}, func(s qemu.State, how qemu.StopMethod) {
		if how == "" {
			log.Info("Shutting down", "machine", s.Name)
			return
		}
		log.Info("Shut down", "machine", s.Name, "by", how)
	})
}

// leaseNamespace is the manager's own where it runs in the cluster.
func leaseNamespace() string {
	name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil || len(name) == 0 {
		return "kube-system"
	}
	return string(name)
}

// newManager connects to the cluster and claims it for the data directory.
func newManager(ctx context.Context, o options, directory *claim.Directory) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w; set KUBECONFIG or --kubeconfig", err)
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                metricsserver.Options{BindAddress: o.metrics},
		HealthProbeBindAddress: o.probes,
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	direct, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	cluster, err := claim.TakeCluster(ctx, claim.ClusterOptions{
		Client: direct, Namespace: o.lease, Directory: directory, MachinesEnd: o.stopMachines, Log: ctrl.Log.WithName("claim"),
	})
	if err != nil {
		return nil, err
	}
	if err := mgr.Add(cluster); err != nil {
		return nil, err
	}
	return mgr, errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping))
}

// reserve is left free of downloads: a control plane whose data is in the same
// file system must be able to write down that it is full.
const reserve = 64 << 20

func newLibrary(o options) (*content.Library, func() error, error) {
	store, err := artifact.Open(artifact.Options{Dir: filepath.Join(o.dirs.Data, "artifacts"), ImagesDir: o.imagesDir, Reserve: reserve})
	if err != nil {
		return nil, nil, err
	}
	disks, err := disk.New(disk.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return content.New(content.Options{Store: store, Disks: disks, ImagesDir: o.imagesDir, ProgramsDir: o.programsDir}), store.Close, nil
}
