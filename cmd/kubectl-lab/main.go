// SPDX-License-Identifier: Apache-2.0

// Command kubectl-lab is the way to a lab's machines: SSH, serial consoles,
// serial logs, and how long each phase of an installation took. In $PATH it
// also works as "kubectl lab".
//
// Objects are read from the cluster that the kubeconfig names. Streams go
// through the manager's access API (internal/access): to a manager that runs in
// the cluster by the API server's port forwarding, which needs the right to
// create pods/portforward there, and else to the one that runs on this host
// under this user, by its socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// exitError ends the program with a status of its own and no message: what
// there is to say has been said by the program that was run.
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
