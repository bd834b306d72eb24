// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
)

func (a *app) timelineCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "timeline [TARGET...]",
		Short: "Print how long each phase of a target took",
		Long: `Print how long each phase of a target took since the power-on that started its
last installation. Without TARGET, print all targets of the namespace.`,
		ValidArgsFunction: a.complete(access.Target),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := a.targets(cmd.Context(), args)
			if err != nil {
				return err
			}
			return printTimelines(a.streams.Out, targets, time.Now())
		},
	}
}

// targets gets the named targets, or all targets of the namespace.
func (a *app) targets(ctx context.Context, names []string) ([]v1alpha1.BareMetalTarget, error) {
	c, err := a.newClient()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		namespace, err := a.namespace()
		if err != nil {
			return nil, err
		}
		var all v1alpha1.BareMetalTargetList
		if err := c.List(ctx, &all, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("listing the targets of namespace %s: %w", namespace, err)
		}
		if len(all.Items) == 0 {
			return nil, fmt.Errorf("there are no targets in namespace %s", namespace)
		}
		return all.Items, nil
	}
	targets := make([]v1alpha1.BareMetalTarget, len(names))
	for i, name := range names {
		m, err := a.machine(name)
		if err != nil {
			return nil, err
		}
		if m.Kind != access.Target {
			return nil, fmt.Errorf("%s has no timeline: only targets have one", m)
		}
		if err := c.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Name}, &targets[i]); err != nil {
			return nil, fmt.Errorf("looking up %s: %w", m, err)
		}
	}
	return targets, nil
}

// printTimelines prints one table for all targets.
func printTimelines(out io.Writer, targets []v1alpha1.BareMetalTarget, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "TARGET\tPHASE\tSINCE\tSECONDS")
	for i := range targets {
		printTimeline(w, &targets[i], now)
	}
	return w.Flush()
}

func printTimeline(w io.Writer, t *v1alpha1.BareMetalTarget, now time.Time) {
	records := t.Status.Timeline
	if len(records) == 0 {
		fmt.Fprintf(w, "%s\t%s\t\t\n", t.Name, firstNonEmpty(string(t.Status.Phase), "-"))
		return
	}
	name := t.Name
	for _, r := range records {
		seconds := r.Seconds
		if seconds == "" && settled(r.Phase) {
			seconds = "-"
		} else if seconds == "" {
			seconds = secondsBetween(r.StartedAt.Time, now) + " so far"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, r.Phase, r.StartedAt.Local().Format("15:04:05"), seconds)
		name = ""
	}
	if began, ready, ok := untilReady(records); ok {
		fmt.Fprintf(w, "\tpower-on to Ready\t\t%s\n", secondsBetween(began, ready))
	}
}

// settled reports whether a target stays in phase p on its own.
func settled(p v1alpha1.TargetPhase) bool {
	return p == v1alpha1.TargetReady || p == v1alpha1.TargetStopped || p == v1alpha1.TargetFailed
}

// untilReady returns the time of the power-on, at which phase PXE starts, and of
// the first Ready after it.
func untilReady(records []v1alpha1.PhaseRecord) (began, ready time.Time, ok bool) {
	for _, r := range records {
		switch {
		case began.IsZero() && r.Phase == v1alpha1.TargetPXE:
			began = r.StartedAt.Time
		case !began.IsZero() && r.Phase == v1alpha1.TargetReady:
			return began, r.StartedAt.Time, true
		}
	}
	return time.Time{}, time.Time{}, false
}

func secondsBetween(from, to time.Time) string {
	return strconv.FormatFloat(to.Sub(from).Seconds(), 'f', 1, 64)
}
