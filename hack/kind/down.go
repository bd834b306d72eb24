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

// remove removes the nodes, with their volumes.
func (a *app) remove() error {
	if err := a.provider().Delete(a.name, a.kubeconfig()); err != nil {
		return fmt.Errorf("removing the cluster %s: %w", a.name, err)
	}
	return nil
}

// down removes all that was made for the cluster, and fails when something is
// left. Images stay in the engine's directory, for the next time.
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
	a.say("the cluster %s is gone", a.name)
	return nil
}

// empty removes the cluster from the engine and looks whether it is gone.
func (a *app) empty(ctx context.Context, d *docker) error {
	nodes, err := a.containers(ctx, d)
	if err != nil {
		return err
	}
	if len(nodes) > 0 {
		a.say("removing the cluster %s", a.name)
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
		return fmt.Errorf("containers of the cluster %s are still there: %s", a.name, strings.Join(nodes, " "))
	}
	return nil
}

// stopEngine ends our engine when nothing is in it any more, and removes what a
// killed one left. The user's is left alone.
func (a *app) stopEngine(ctx context.Context, d *docker) error {
	if d != nil && d.own == nil {
		return nil
	}
	release, alone, err := a.endEngine(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	if !alone {
		a.say("the engine goes on: another command is at work in it")
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
			a.say("the engine goes on: %d other containers are in it", len(others))
			return nil
		}
		a.say("stopping the engine")
	} else if known, err := own.Known(); err != nil || !known {
		return err
	}
	// An interrupt is no reason to leave half an engine.
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
		return errors.New("the engine is stopped, but this is left of it: " + strings.Join(left, ", "))
	}
	return nil
}

// clean removes the cluster and the node images that were built here: in a user's
// engine these alone, else the whole directory of ours. It does not touch an
// engine of ours that others use.
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
	own, inUse := a.ownEngine(), errors.New("other clusters are in the engine: remove them first (kind-lab down --name NAME)")
	release, alone, err := a.endEngine(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	if !alone {
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
