// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// remove removes the nodes and their volumes.
func (a *app) remove() error {
	if err := a.provider().Delete(a.name, a.kubeconfig()); err != nil {
		return fmt.Errorf("removing the cluster %s: %w", a.name, err)
	}
	return nil
}

// down removes everything that was created for the cluster, and fails if anything
// is left. Images stay in the engine's directory for the next time.
func (a *app) down(ctx context.Context) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	d, err := a.runningEngine(ctx)
	if err != nil {
		return err
	}
	if d != nil {
		if err := a.empty(ctx, d); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(a.dir()); err != nil {
		return err
	}
	if err := a.stopEngine(ctx, d); err != nil {
		return err
	}
	a.logf("removed the cluster %s", a.name)
	return nil
}

// empty removes the cluster from the engine and verifies the result.
func (a *app) empty(ctx context.Context, d *docker) error {
	nodes, err := a.containers(ctx, d)
	if err != nil {
		return err
	}
	if len(nodes) > 0 {
		a.logf("removing the cluster %s", a.name)
		if err := a.remove(); err != nil {
			return err
		}
	}
	if _, err := d.run(ctx, "network", "inspect", a.network()); err == nil {
		if _, err := d.run(ctx, "network", "rm", a.network()); err != nil {
			return err
		}
	}
	if nodes, err = a.containers(ctx, d); err != nil {
		return err
	}
	if len(nodes) > 0 {
		return fmt.Errorf("containers of the cluster %s still exist after removal: %s", a.name, strings.Join(nodes, " "))
	}
	return nil
}

// stopEngine stops the private engine if it has no containers, and removes what a
// killed one left behind. It never stops the user's engine.
func (a *app) stopEngine(ctx context.Context, d *docker) error {
	if d != nil && d.own == nil {
		return nil
	}
	release, exclusive, err := a.lockEngine(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	if !exclusive {
		a.logf("keeping the engine: another command is using it")
		return nil
	}
	defer release()
	own := a.ownEngine()
	if d != nil {
		others, err := d.lines(ctx, "ps", "--all", "--quiet")
		if err != nil {
			return err
		}
		if len(others) > 0 {
			a.logf("keeping the engine: it has %d other containers", len(others))
			return nil
		}
		a.logf("stopping the engine")
	} else if known, err := own.Known(); err != nil || !known {
		return err
	}
	// An interrupt must not leave a half-removed engine.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	if err := a.asRoot(ctx, "stop", own); err != nil {
		return err
	}
	left, err := own.Leftovers()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.New("the engine is stopped but left behind: " + strings.Join(left, ", "))
	}
	return nil
}

// clean removes the cluster and the node images that were built here: from a
// user's engine only these, otherwise the private engine's whole directory. It
// fails if other clusters use the private engine.
func (a *app) clean(ctx context.Context) error {
	d, err := a.runningEngine(ctx)
	if err != nil {
		return err
	}
	if err := a.down(ctx); err != nil {
		return err
	}
	if d != nil && d.own == nil {
		a.forgetOldImages(ctx, d, "")
	}
	own, inUse := a.ownEngine(), errors.New("other clusters use the engine; remove them first with \"kind-lab down --name NAME\"")
	release, exclusive, err := a.lockEngine(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	if !exclusive {
		return inUse
	}
	defer release()
	if known, err := own.Known(); err != nil {
		return err
	} else if known {
		return inUse
	}
	if _, err := os.Stat(own.Dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return a.asRoot(ctx, "clean", own)
}
