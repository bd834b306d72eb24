// SPDX-License-Identifier: Apache-2.0

// Command lab starts and stops a lab on this host. "make up", "make down", "make
// status" and "make clean" run it.
//
// It starts the control plane and the manager in the background, applies the
// CRDs and the samples, and waits until the samples' machines are Ready. Every
// step first checks whether it is already done, so a second run changes nothing.
// Background processes are recorded by PID, start time and boot ID
// (internal/process), never by PID alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/version"
)

func main() {
	// All files are private to this user. This includes etcd's sockets, whose
	// mode depends on the umask alone.
	syscall.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		if ctx.Err() != nil {
			os.Exit(130)
		}
		os.Exit(1)
	}
}

// lab is a lab on this host.
type lab struct {
	dirs paths.Dirs
	// root is the project's checkout, bin its directory of built programs.
	root, bin string
	out       *printer
}

func newLab() (*lab, error) {
	dirs, err := paths.Default()
	if err != nil {
		return nil, err
	}
	root, err := paths.Checkout()
	if err != nil {
		return nil, err
	}
	return &lab{dirs: dirs, root: root, bin: filepath.Join(root, "bin"), out: newPrinter(os.Stdout)}, nil
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Start and stop a lab on this host",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(upCommand(), downCommand(), statusCommand(), cleanCommand(), samplesCommand())
	return root
}

// samplesFlag adds the --samples flag.
func samplesFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "samples", "auto",
		"samples to create: ubuntu, debian, auto (ubuntu if its server is reachable, else debian), none, or a directory")
}

func upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab and wait until its machines are Ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLab()
			if err != nil {
				return err
			}
			return l.up(cmd.Context(), o)
		},
	}
	samplesFlag(cmd, &o.samples)
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0,
		"how long to wait until the machines are Ready; 0 is an hour, and a minute more for each target")
	cmd.Flags().StringVar(&o.access, "access-address", "",
		"address of this host, HOST:PORT, at which the API server of KUBECONFIG's cluster reaches the manager for \"kubectl lab\"")
	cmd.Flags().BoolVar(&o.noWait, "no-wait", false, "do not wait until the machines are Ready")
	return cmd
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop all processes of the lab; keep objects, disks and images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLab()
			if err != nil {
				return err
			}
			return l.down(cmd.Context())
		},
	}
}

func cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Stop the lab and remove its data: objects, disks, artifacts, logs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLab()
			if err != nil {
				return err
			}
			return l.clean(cmd.Context())
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which lab processes are running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLab()
			if err != nil {
				return err
			}
			return l.status(cmd.Context())
		},
	}
}

func samplesCommand() *cobra.Command {
	var choice string
	cmd := &cobra.Command{
		Use:   "samples",
		Short: "Print which samples \"up\" would create",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := newLab()
			if err != nil {
				return err
			}
			chosen, why, err := l.chooseSamples(cmd.Context(), choice)
			if err != nil {
				return err
			}
			if why != "" {
				fmt.Fprintln(os.Stderr, why)
			}
			fmt.Println(chosen)
			return nil
		},
	}
	samplesFlag(cmd, &choice)
	return cmd
}

// lock ensures that only one command at a time starts or stops processes. It does
// not block.
func (l *lab) lock() (unlock func(), err error) {
	if err := l.dirs.Ensure(); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(l.dirs.Records(), "lab.lock"), flock.SetPermissions(0o600))
	held, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the lab: %w", err)
	}
	if !held {
		return nil, fmt.Errorf("another \"make up\", \"make down\" or \"make clean\" is running for the lab in %s; wait until it has finished",
			l.dirs.Data)
	}
	return func() { _ = lock.Unlock() }, nil
}
