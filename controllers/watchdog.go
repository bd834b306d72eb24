// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/internal/metrics"
)

// watchdog watches for reconciliations that do not return, although their context ends
// after reconcileTimeout. It is safe for concurrent use.
type watchdog struct {
	// limit is how long a reconciliation may take.
	limit time.Duration

	mu      sync.Mutex
	running map[*watchedRun]struct{}
}

// watchedRun is a reconciliation in progress.
type watchedRun struct {
	kind    string
	request ctrl.Request
	since   time.Time
}

func (w *watchedRun) String() string { return w.kind + " " + w.request.String() }

func newWatchdog(limit time.Duration) *watchdog {
	return &watchdog{limit: limit, running: map[*watchedRun]struct{}{}}
}

// watch returns a reconciler whose reconciliations are watched.
func (d *watchdog) watch(kind string, r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
		defer d.begin(ctx, &watchedRun{kind: kind, request: request, since: time.Now()})()
		return r.Reconcile(ctx, request)
	})
}

// begin records the start of a reconciliation; the caller calls end when it has
// returned. One that exceeds the limit is logged then, and again when it has returned.
func (d *watchdog) begin(ctx context.Context, run *watchedRun) (end func()) {
	log := ctrl.LoggerFrom(ctx)
	d.mu.Lock()
	d.running[run] = struct{}{}
	d.mu.Unlock()
	timer := time.AfterFunc(d.limit, func() {
		log.Error(nil, "Reconciliation does not return", "kind", run.kind, "object", run.request.String(), "after", d.limit.String())
	})
	return func() {
		d.mu.Lock()
		delete(d.running, run)
		d.mu.Unlock()
		if !timer.Stop() {
			log.Info("Reconciliation returned late", "kind", run.kind, "object", run.request.String(), "after", time.Since(run.since).String())
		}
	}
}

// oldest returns the age of the oldest reconciliation in progress of each kind, 0 if
// there is none.
func (d *watchdog) oldest() map[string]time.Duration {
	ages := map[string]time.Duration{metrics.KindServer: 0, metrics.KindProfile: 0, metrics.KindTarget: 0}
	d.mu.Lock()
	defer d.mu.Unlock()
	for run := range d.running {
		ages[run.kind] = max(ages[run.kind], time.Since(run.since))
	}
	return ages
}

// check returns an error that names the reconciliations that exceed the limit.
func (d *watchdog) check() error {
	d.mu.Lock()
	running := slices.Collect(maps.Keys(d.running))
	d.mu.Unlock()
	slices.SortFunc(running, func(a, b *watchedRun) int { return a.since.Compare(b.since) })
	var stuck []string
	for _, run := range running {
		if age := time.Since(run.since); age >= d.limit {
			stuck = append(stuck, fmt.Sprintf("%s for %s", run, age.Round(time.Second)))
		}
	}
	if len(stuck) == 0 {
		return nil
	}
	return fmt.Errorf("reconciliations do not return: %s; see the manager's log and restart it", strings.Join(stuck, ", "))
}
