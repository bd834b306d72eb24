// SPDX-License-Identifier: Apache-2.0

// Command kind-lab creates a single-node Kubernetes cluster in a container, with
// kind, and removes it without a trace. "make kind-up", "make kind-load" and
// "make kind-down" run it.
//
// A responding Docker engine is used unchanged. Without one, on Linux, Docker is
// installed and a private engine is started: in separate namespaces, with
// dedicated directories, and without changes to the host's firewall. It stops
// with the last cluster (engine.go). The node image is kind's if it is available,
// else the one that "make kind-node-image" builds (image.go).
//
// Invoked as "runc-bounded" it is an OCI runtime (package ociruntime).
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

	"github.com/pxelab/pxelab/cmd/kind-lab/internal/ociruntime"
	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/version"
)

func main() {
	if filepath.Base(os.Args[0]) == ociruntime.Name {
		fmt.Fprintln(os.Stderr, ociruntime.Name+":", ociruntime.Exec(os.Args[1:]))
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

// app manages one cluster, whether it exists or not.
type app struct {
	// name is the cluster's name.
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
	root, err := paths.Checkout()
	if err != nil {
		return nil, err
	}
	return &app{name: name, dirs: dirs, root: root, began: time.Now()}, nil
}

// dir is the directory for the cluster's files.
func (a *app) dir() string { return filepath.Join(a.dirs.Data, "kind", a.name) }

// kubeconfig is a dedicated file: the user's kubeconfig is not modified.
func (a *app) kubeconfig() string { return filepath.Join(a.dir(), "kubeconfig") }

// logf prints a message with the seconds since the start.
func (a *app) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%4.0f s] %s\n", time.Since(a.began).Seconds(), fmt.Sprintf(format, args...))
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "kind-lab",
		Short:         "Create and remove a single-node cluster in a container",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	var name string
	root.PersistentFlags().StringVar(&name, "name", "pxelab", "name of the cluster")
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
		Short: "Create or restart the cluster and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.up(ctx, o) }),
	}
	nodeImageFlag(cmd, &o.nodeImage)
	cmd.Flags().StringArrayVar(&o.publish, "publish", nil,
		"publish a port of the node on this host, as [ADDRESS:]HOSTPORT:NODEPORT; ADDRESS defaults to 127.0.0.1; can be repeated")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait until the cluster is ready")
	return cmd
}

func nodeImageFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "node-image", "auto",
		"node image: kind (kind's own), own (built here), auto (kind's if available, else own), or an image name")
}

func downCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster and everything created for it, including the private engine",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.down(ctx) }),
	}
}

func cleanCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove the cluster, the node images built here, and the private engine's directory",
		Args:  cobra.NoArgs,
		RunE:  with(func(ctx context.Context, a *app, _ []string) error { return a.clean(ctx) }),
	}
}

func loadCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "load IMAGE|ARCHIVE...",
		Short: "Load images into the node, from archive files or from the engine by name",
		Args:  cobra.MinimumNArgs(1),
		RunE:  with(func(ctx context.Context, a *app, args []string) error { return a.load(ctx, args) }),
	}
}

func logsCommand(with runner) *cobra.Command {
	return &cobra.Command{
		Use:   "logs DIR",
		Short: "Write the logs of the node and the pods to a directory",
		Args:  cobra.ExactArgs(1),
		RunE:  with(func(ctx context.Context, a *app, args []string) error { return a.logs(ctx, args[0]) }),
	}
}

func nodeImageCommand(with runner) *cobra.Command {
	var choice string
	cmd := &cobra.Command{
		Use:   "node-image",
		Short: "Print which node image \"up\" would use: own, or a name",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, a *app, _ []string) error {
			d, err := a.client(ctx)
			if err != nil {
				return err
			}
			chosen, why := a.chooseNodeImage(ctx, d, choice)
			if why != "" {
				a.logf("%s", why)
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
		Short: "Print the path of the cluster's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: with(func(_ context.Context, a *app, _ []string) error {
			if _, err := os.Stat(a.kubeconfig()); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the cluster %s does not exist; create it with \"make kind-up\"", a.name)
			}
			fmt.Println(a.kubeconfig())
			return nil
		}),
	}
}
