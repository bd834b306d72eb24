// SPDX-License-Identifier: Apache-2.0

// Command kind-lab makes a Kubernetes cluster of one node in a container, by
// kind, and removes it again without a trace; it is what "make kind-up", "make
// kind-load" and "make kind-down" run.
//
// Where a Docker engine answers it is used as it is. Where none does, on Linux,
// Docker is installed and an engine of our own started beside whatever else
// there is: in namespaces of its own, with its own directories, and without a
// word in the host's firewall; it ends with the last cluster (engine.go). The
// node image is kind's own if that can be had, else the one that "make
// kind-node-image" builds (image.go).
//
// Called as "runc-bounded" it is an OCI runtime (bounded).
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/hack/kind/internal/bounded"
	"github.com/pxelab/pxelab/internal/paths"
)

func main() {
	if filepath.Base(os.Args[0]) == bounded.Name {
		fmt.Fprintln(os.Stderr, bounded.Name+":", bounded.Exec(os.Args[1:]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kind-lab:", err)
		if ctx.Err() != nil {
			os.Exit(130)
		}
		os.Exit(1)
	}
}

// app is one cluster, there or not.
type app struct {
	// name is the cluster's.
	name string
	dirs paths.Dirs
	// root is the project's checkout.
	root  string
	began time.Time
}

func newApp(name string) (*app, error) {
	dirs, err := paths.Default()
	if err != nil {
		return nil, err
	}
	root, err := projectRoot()
	if err != nil {
		return nil, err
	}
	return &app{name: name, dirs: dirs, root: root, began: time.Now()}, nil
}

// projectRoot is the checkout that this program works for: the working
// directory or the closest one above it.
func projectRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "kind", "node")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run this in a checkout of pxelab: there is no hack/kind/node here or above")
		}
		dir = parent
	}
}

// dir holds what belongs to this cluster.
func (a *app) dir() string { return filepath.Join(a.dirs.Data, "kind", a.name) }

// kubeconfig is a file of its own: the user's stays as it is.
func (a *app) kubeconfig() string { return filepath.Join(a.dir(), "kubeconfig") }

// say tells a step, with the seconds since the start.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%4.0f s] %s\n", time.Since(a.began).Seconds(), fmt.Sprintf(format, args...))
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "kind-lab",
		Short:         "Make a cluster of one node in a container, and remove it again",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var name string
	root.PersistentFlags().StringVar(&name, "name", "pxelab", "the cluster's name")
	with := func(run func(context.Context, *app, []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			a, err := newApp(name)
			if err != nil {
				return err
			}
			return run(cmd.Context(), a, args)
		}
	}
	root.AddCommand(upCommand(with), downCommand(with), cleanCommand(with), loadCommand(with), logsCommand(with),
		nodeImageCommand(with), kubeconfigCommand(with), engineCommand())
	return root
}

type runner = func(func(context.Context, *app, []string) error) func(*cobra.Command, []string) error

func upCommand(with runner) *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the cluster, or find it, and wait until it works",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.up(ctx, o) }),
	}
	nodeImageFlag(cmd, &o.nodeImage)
	cmd.Flags().StringArrayVar(&o.publish, "publish", nil, "[ADDRESS:]HOSTPORT:NODEPORT, a port of the node to be reached on this host (again and again; 127.0.0.1 without ADDRESS)")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait until the cluster works")
	return cmd
}

func nodeImageFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "node-image", "auto", "the node's image: kind (kind's own), own (built here), auto (kind's if it can be had, else own), or a name")
}

func downCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and all that was made for it, the engine too if it is ours",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.down(ctx) }),
	}
}

func cleanCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove the cluster, the node images built here, and our engine's directory",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.clean(ctx) }),
	}
}

func loadCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "load IMAGE|ARCHIVE...",
		Short: "Give the node images: archives (files), or images of the engine by name",
		Args:  cobra.MinimumNArgs(1),
		RunE:  with(func(ctx context.Context, a *app, args []string) error { return a.load(ctx, args) }),
	}
}

func logsCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "logs DIR",
		Short: "Write the node's and the pods' logs into a directory",
		Args:  cobra.ExactArgs(1),
		RunE:  with(func(ctx context.Context, a *app, args []string) error { return a.logs(ctx, args[0]) }),
	}
}

func nodeImageCommand(with runner) *cobra.Command {
	var choice string
	cmd := &cobra.Command{
		Use:   "node-image",
		Short: "Print which node image \"up\" would take: own, or a name",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, a *app, _ []string) error {
			d, err := a.client(ctx)
			if err != nil {
				return err
			}
			chosen, why := a.chooseNodeImage(ctx, d, choice)
			if why != "" {
				a.say("%s", why)
			}
			fmt.Println(chosen)
			return nil
		}),
	}
	nodeImageFlag(cmd, &choice)
	return cmd
}

func kubeconfigCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print where the cluster's kubeconfig is",
		Args:  cobra.NoArgs,
		RunE: with(func(_ context.Context, a *app, _ []string) error {
			if _, err := os.Stat(a.kubeconfig()); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no cluster %s: make kind-up", a.name)
			}
			fmt.Println(a.kubeconfig())
			return nil
		}),
	}
}
