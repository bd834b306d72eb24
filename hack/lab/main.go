// SPDX-License-Identifier: Apache-2.0

// Command lab brings a lab up on this host and takes it down again; it is what
// "make up", "make down", "make status" and "make clean" run.
//
// It starts the control plane and the manager in the background, applies the
// CRDs and the samples, and watches until the samples' machines are Ready.
// Every step first looks whether it is done already, so that a second run
// changes nothing. What runs in the background is on record by PID, start time
// and boot (internal/process), never by PID alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/pxelab/pxelab/internal/paths"
)

func main() {
	// What the programs of a lab make, they make for this user: etcd's sockets
	// among it, which take whatever mode the umask leaves.
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

// lab is one lab on this host.
type lab struct {
	dirs paths.Dirs
	// root is the project's checkout, bin what it built.
	root, bin string
	say       *printer
}

func newLab() (*lab, error) {
	dirs, err := paths.Default()
	if err != nil {
		return nil, err
	}
	root, err := projectRoot()
	if err != nil {
		return nil, err
	}
	return &lab{dirs: dirs, root: root, bin: filepath.Join(root, "bin"), say: newPrinter(os.Stdout)}, nil
}

// projectRoot is the checkout that this program works for: the working
// directory or the closest one above it.
func projectRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "config", "crd", "bases")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("run this in a checkout of pxelab: there is no config/crd/bases here or above")
		}
		dir = parent
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Bring a lab up on this host, and take it down again",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), statusCommand(), cleanCommand(), samplesCommand())
	return root
}

// samplesFlag is shared by the commands that choose samples.
func samplesFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "samples", "auto", "what to bring up: ubuntu, debian, auto (Ubuntu if it can be reached, else Debian), none, or a directory")
}

func upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the lab up and wait until its machines are Ready",
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
	cmd.Flags().DurationVar(&o.timeout, "timeout", time.Hour, "how long to wait until the machines are Ready")
	cmd.Flags().BoolVar(&o.noWait, "no-wait", false, "do not wait until the machines are Ready")
	return cmd
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop every process of the lab; objects, disks and images stay",
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
		Short: "Tell what of the lab runs",
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
		Short: "Print which samples \"up\" would take",
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

// lock makes sure that one command at a time starts or stops processes.
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
		return nil, fmt.Errorf("another \"make up\", \"make down\" or \"make clean\" is at work on this lab (%s)", l.dirs.Data)
	}
	return func() { _ = lock.Unlock() }, nil
}
