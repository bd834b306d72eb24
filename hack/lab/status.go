// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/qemu"
)

// statusPatience is how long the cluster may take to answer.
const statusPatience = 10 * time.Second

// status prints what runs. It starts and changes nothing.
func (l *lab) status(ctx context.Context) error {
	if _, err := os.Stat(l.dirs.Records()); err != nil {
		fmt.Println("there is no lab here; \"make up\" makes one")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "WHAT\tSTATE\tPROCESS\tUP\tLOG")
	for _, name := range []string{controlPlane, manager} {
		r, err := l.running(name)
		if err != nil {
			return err
		}
		if r == nil {
			fmt.Fprintf(w, "%s\tstopped\t\t\t\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\trunning\t%d\t%s\t%s\n", name, r.PID, time.Since(r.StartedAt).Round(time.Second), r.Log)
	}
	if err := l.statusOfMachines(ctx, w); err != nil {
		return err
	}
	return w.Flush()
}

// statusOfMachines prints what is known of the machines: from the cluster while
// a manager runs, which then has the machines for itself, else from the host.
func (l *lab) statusOfMachines(ctx context.Context, w io.Writer) error {
	if r, err := l.running(manager); err != nil {
		return err
	} else if r != nil {
		c, err := l.connect(ctx, nil, statusPatience)
		if err != nil {
			return err
		}
		return printObjects(ctx, w, c.client)
	}
	return l.withMachines(func(machines qemu.Runner) error {
		states, err := machines.List(ctx)
		if err != nil {
			return fmt.Errorf("listing the lab's machines: %w", err)
		}
		for _, s := range states {
			pid, up := "", ""
			if s.Phase.Alive() {
				pid, up = fmt.Sprint(s.PID), time.Since(s.StartedAt).Round(time.Second).String()
			}
			fmt.Fprintf(w, "machine %s\t%s\t%s\t%s\t%s\n", s.Name, s.Phase, pid, up, s.Paths.SerialLog)
		}
		return nil
	})
}

func printObjects(ctx context.Context, w io.Writer, c client.Client) error {
	var servers v1alpha1.ProvisioningServerList
	var targets v1alpha1.BareMetalTargetList
	if err := errors.Join(c.List(ctx, &servers), c.List(ctx, &targets)); err != nil {
		return fmt.Errorf("listing the lab's machines: %w", err)
	}
	for i := range servers.Items {
		s := &servers.Items[i]
		fmt.Fprintf(w, "server %s\t%s\t\t\t%s\n", s.Name, seeServer(s).state, s.Status.Consoles.SerialLog)
	}
	for i := range targets.Items {
		t := &targets.Items[i]
		fmt.Fprintf(w, "target %s\t%s\t\t\t%s\n", t.Name, seeTarget(t).state, t.Status.Consoles.SerialLog)
	}
	return nil
}
