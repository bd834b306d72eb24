// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/pxelab/pxelab/controllers"
	"github.com/pxelab/pxelab/internal/labdown"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
)

const (
	// powerDownPatience is how long a guest may take to shut down; emulated guests are
	// slow. The pod's terminationGracePeriodSeconds is longer.
	powerDownPatience = 90 * time.Second
	// recordPatience is how long the API may take to record that the machines are off.
	recordPatience = 15 * time.Second
)

// shutDown stops all machines, and records it in the objects' status unless the cluster
// has another owner by now. The reconcilers, which would restart the machines, must have
// stopped; ended is what they stopped with. namespaces are those with objects of the manager.
func shutDown(mgr ctrl.Manager, machines machine.Runner, namespaces []string, ended error) error {
	log := ctrl.Log.WithName("manager")
	err := machine.StopAll(context.Background(), machines, machine.StopOptions{ACPITimeout: powerDownPatience},
		func(s machine.State, how machine.StopMethod) {
			if how == "" {
				log.Info("Shutting down", "machine", s.Name)
				return
			}
			log.Info("Shut down", "machine", s.Name, "by", how)
		})
	if errors.Is(ended, ownership.ErrTaken) {
		return err
	}
	return errors.Join(err, recordDown(mgr, machines, namespaces, log))
}

// recordDown sets the status of the objects whose machines are off.
func recordDown(mgr ctrl.Manager, machines machine.Runner, namespaces []string, log logr.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordPatience)
	defer cancel()
	states, err := machines.List(ctx)
	if err != nil {
		return fmt.Errorf("listing the machines: %w", err)
	}
	result, err := labdown.Record(ctx, labdown.Options{
		Reader: controllers.ReaderIn(namespaces, mgr.GetAPIReader()), Writer: mgr.GetClient(), Machines: states, Now: time.Now(),
	})
	log.Info("Recorded that the machines are off", "objects", result.Stopped, "running", result.Running)
	if err != nil {
		return fmt.Errorf("recording that the machines are off: %w", err)
	}
	return nil
}
