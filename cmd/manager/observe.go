// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/metrics"
)

// addMetrics adds the manager's metrics to those of controller-runtime.
func addMetrics(recorder *metrics.Recorder, sources metrics.Sources) error {
	return errors.Join(crmetrics.Registry.Register(recorder), crmetrics.Registry.Register(metrics.NewCollector(sources)))
}

// addChecks adds the checks of /healthz and /readyz. A failure of /healthz restarts the
// pod and with it every machine, so it only shows that the process serves requests;
// a reconciliation that hangs makes the manager unready.
func addChecks(mgr ctrl.Manager, set *controllers.Set) error {
	errs := []error{mgr.AddHealthzCheck("ping", healthz.Ping)}
	for name, check := range set.ReadyChecks() {
		errs = append(errs, mgr.AddReadyzCheck(name, check))
	}
	return errors.Join(errs...)
}
