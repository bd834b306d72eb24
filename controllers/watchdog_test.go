// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/pxelab/pxelab/internal/metrics"
)

// A reconciliation that ignores the end of its context is reported by name, once in the
// log, and no longer once it has returned.
func TestWatchdogNamesReconciliationThatHangs(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	logged := make(chan struct{}, 10)
	log := funcr.New(func(_, line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
		logged <- struct{}{}
	}, funcr.Options{})
	gate := make(chan struct{})
	dog := newWatchdog(20 * time.Millisecond)
	watched := dog.watch(metrics.KindTarget, reconcile.Func(func(context.Context, ctrl.Request) (ctrl.Result, error) {
		<-gate
		return ctrl.Result{}, nil
	}))
	if err := dog.check(); err != nil {
		t.Errorf("without a reconciliation: got %v, want nil", err)
	}
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "team", Name: "target-1"}}
	ended := make(chan error)
	go func() {
		_, err := watched.Reconcile(ctrl.LoggerInto(context.Background(), log), request)
		ended <- err
	}()
	<-logged
	if err := dog.check(); err == nil || !strings.Contains(err.Error(), "BareMetalTarget team/target-1 for ") {
		t.Errorf("while a reconciliation hangs: got %v, want an error that names it", err)
	}
	if age := dog.oldest()[metrics.KindTarget]; age < dog.limit {
		t.Errorf("got age %s, want at least %s", age, dog.limit)
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := dog.check(); err != nil {
		t.Errorf("after its return: got %v, want nil", err)
	}
	want := map[string]time.Duration{metrics.KindServer: 0, metrics.KindProfile: 0, metrics.KindTarget: 0}
	for kind, age := range dog.oldest() {
		if age != want[kind] {
			t.Errorf("after its return: got age %s of %s, want 0", age, kind)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(lines) != 2 || !strings.Contains(lines[0], "does not return") || !strings.Contains(lines[0], "team/target-1") ||
		!strings.Contains(lines[1], "returned late") {
		t.Errorf("got log %q, want a line while it hangs and one after its return", lines)
	}
}

func TestWatchdogIgnoresReconciliationsThatReturn(t *testing.T) {
	dog := newWatchdog(time.Hour)
	calls := 0
	watched := dog.watch(metrics.KindServer, reconcile.Func(func(context.Context, ctrl.Request) (ctrl.Result, error) {
		calls++
		if dog.check() != nil || dog.oldest()[metrics.KindServer] == 0 {
			t.Error("got no age of a reconciliation in progress, or an error, want an age only")
		}
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}))
	result, err := watched.Reconcile(context.Background(), ctrl.Request{})
	if err != nil || result.RequeueAfter != time.Second || calls != 1 || len(dog.running) != 0 {
		t.Errorf("got result %v, error %v, %d calls and %d left running, want the reconciler's result of one call", result, err, calls, len(dog.running))
	}
}
