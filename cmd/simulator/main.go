// SPDX-License-Identifier: Apache-2.0

// Command simulator runs the simulated machines of a lab in one process. The manager
// starts it when it starts the first one, and it keeps running when the manager exits.
// It exits when it has neither a machine nor a manager.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/paths"
	"github.com/pxelab/pxelab/internal/simulator/server"
	"github.com/pxelab/pxelab/internal/version"
)

func main() {
	// Files and sockets are private to this user.
	syscall.Umask(0o077)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "simulator:", err)
		os.Exit(server.ExitStatus(err))
	}
}

func run() error {
	dirs, err := paths.Default()
	if err != nil {
		return err
	}
	flag.StringVar(&dirs.Data, "data-dir", dirs.Data, "directory for machines")
	flag.StringVar(&dirs.Runtime, "runtime-dir", dirs.Runtime, "short directory for sockets")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Println(version.String())
		return nil
	}
	// A thousand idle machines have little live memory: collecting garbage early keeps
	// the process small.
	debug.SetGCPercent(50)
	// Each machine's TCP/IP stack has goroutines for each processor that Go uses.
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 8))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil))
	return server.Run(ctx, server.Options{DataDir: dirs.Data, RuntimeDir: dirs.Runtime, Log: log})
}
