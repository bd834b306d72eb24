// SPDX-License-Identifier: Apache-2.0

// Command kubectl-lab accesses a lab's machines: SSH, serial consoles and serial
// logs. It also prints how long each phase of an installation took, and which machines
// wait for room on the host. In $PATH it works as the kubectl plugin "kubectl lab".
//
// Objects are read from the cluster that the kubeconfig names. Streams go
// through the manager's access API (internal/access), which is part of the cluster's API:
// the API server authenticates the user, and the cluster's roles decide which machines the
// user may reach.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// exitError ends the program with an exit status but without a message: the
// program that was run has printed one.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := newApp()
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var status exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case ctx.Err() != nil:
		return 130
	default:
		fmt.Fprintln(a.streams.ErrOut, "error:", explain(err))
		return 1
	}
}
