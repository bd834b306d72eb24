// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// Capacity admits machines to a host, as plan.Capacity decides, for the reconcilers of
// one manager. Each reconciliation either counts a machine that runs, asks for one that
// is to be started, or releases it; nothing has to be remembered when a step fails. It
// is safe for concurrent use and does not block.
type Capacity struct {
	host *Host
	wake func(uid string)

	mu   sync.Mutex
	plan *plan.Capacity
	// loaded is set once the machines that ran before this manager are counted. None is
	// admitted before.
	loaded bool
	// open is set once all servers have asked, for targets to ask.
	open bool
	// owned has the machines that the reconciler of their object takes care of; the
	// others of those that are counted have no object.
	owned map[string]bool
	// shown has what the status of a waiting machine has as the reason. It is kept while
	// the reason stays the same: a message with the figures of now would be written to
	// every waiting object whenever one machine starts or stops.
	shown map[string]plan.Blocker
	// accelerators are those that machines run on.
	accelerators map[machine.Architecture]machine.Accelerator
}

// NewCapacity returns the Capacity of a host with limits, for Host.Capacity.
func NewCapacity(limits plan.Limits) *Capacity {
	return &Capacity{
		plan: plan.NewCapacity(limits), owned: map[string]bool{}, shown: map[string]plan.Blocker{},
		accelerators: map[machine.Architecture]machine.Accelerator{},
	}
}

// bind sets the host whose machines are counted, and what wakes the object of a machine
// that is admitted.
func (c *Capacity) bind(host *Host, wake func(uid string)) { c.host, c.wake = host, wake }

// limits returns the limits, and the accelerator of an architecture, "" if it is not
// known.
func (c *Capacity) limits(arch v1alpha1.Architecture) (plan.Limits, machine.Accelerator) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plan.Limits(), c.accelerators[machine.Architecture(arch)]
}

// isOpen reports whether targets may ask: with a budget, not before all servers that the
// manager found at its start have asked. Without their server, targets are of no use.
func (c *Capacity) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open || c.plan.Limits().Memory == 0
}

func (c *Capacity) setOpen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = true
}

// load counts the machines that run, once. The caller holds mu.
func (c *Capacity) load(ctx context.Context) error {
	if c.loaded {
		return nil
	}
	states, err := c.host.Machines.List(ctx)
	if err != nil {
		return fmt.Errorf("counting the machines that run: %w", err)
	}
	for _, s := range states {
		if _, counted := c.plan.Running(s.ID); s.Phase.Alive() && !counted {
			c.plan.Count(c.found(s))
		}
	}
	c.loaded = true
	return nil
}

// found returns the demand of a machine that an earlier manager started, from what is
// recorded of it. Its object's reconciler replaces it.
func (c *Capacity) found(s machine.State) plan.Demand {
	dir := c.host.paths(s.ID).Dir
	d := plan.Demand{UID: s.ID, Kind: plan.KindTarget, Memory: s.HostMemory}
	if owner, err := ownership.LoadMachine(dir); err == nil && owner.Kind != "" {
		d.Kind, d.Namespace, d.Name = owner.Kind, owner.Namespace, owner.Name
	} else {
		d.Namespace, d.Name, _ = strings.Cut(s.Name, "/")
	}
	record, err := targetdisk.Load(dir)
	d.Installing = d.Kind == plan.KindTarget && err == nil && record.Generation > 0 && installing(record)
	return d
}

// installing reports whether a machine that runs on disks is being installed.
func installing(r targetdisk.Record) bool { return !r.Installed && !r.Failed() }

// admit asks for what a machine needs that is to be started, or reinstalled while it runs.
// The zero Blocker admits it: it counts as running until it is released. Otherwise its
// object is woken when it is admitted.
func (c *Capacity) admit(ctx context.Context, d plan.Demand, runs bool) (why plan.Blocker, err error) {
	c.mu.Lock()
	if err := c.load(ctx); err != nil {
		c.mu.Unlock()
		return plan.Blocker{}, err
	}
	c.owned[d.UID] = true
	admitted := c.plan.Ask(d)
	if !runs {
		admitted = append(admitted, c.plan.Yield(d.UID)...)
	}
	why, waits := c.plan.Wait(d.UID)
	if shown, ok := c.shown[d.UID]; ok && shown.Reason == why.Reason {
		why = shown
	}
	if waits {
		c.shown[d.UID] = why
	}
	c.finish(admitted, d.UID)
	return why, nil
}

// finish ends a change: it forgets what was shown of machines that do not wait any more,
// releases mu, and wakes the objects of those that were admitted, but for the caller's.
func (c *Capacity) finish(admitted []string, caller string) {
	for _, uid := range append(admitted, caller) {
		if !c.plan.Waits(uid) {
			delete(c.shown, uid)
		}
	}
	c.mu.Unlock()
	for _, uid := range admitted {
		if uid != caller {
			c.wake(uid)
		}
	}
}

// count counts a machine that runs as its state and d describe it.
func (c *Capacity) count(d plan.Demand, state machine.State) {
	if state.HostMemory > 0 {
		d.Memory = state.HostMemory
	}
	c.mu.Lock()
	c.owned[d.UID] = true
	c.finish(c.plan.Count(d), d.UID)
}

// withdraw ends the wait of a machine, which keeps what it has.
func (c *Capacity) withdraw(uid string) {
	c.mu.Lock()
	c.finish(c.plan.Withdraw(uid), uid)
}

// runsOn records the accelerator on which machines of an architecture run. A simulated
// machine has no accelerator, which would hold for others.
func (c *Capacity) runsOn(arch v1alpha1.Architecture, a machine.Accelerator) {
	if a == "" || a == machine.NoGuest {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accelerators[machine.Architecture(arch)] = a
}

// release gives back what a machine has, or waits for, that does not run.
func (c *Capacity) release(uid string) {
	c.mu.Lock()
	delete(c.owned, uid)
	c.finish(c.plan.Release(uid), uid)
}

// abandon ends the care of a reconciler for a machine whose object is gone. One that
// still runs counts until its end, which settle sees.
func (c *Capacity) abandon(ctx context.Context, uid string) error {
	c.mu.Lock()
	delete(c.owned, uid)
	c.mu.Unlock()
	return c.settle(ctx, uid)
}

// settle releases a machine without an object that has ended.
func (c *Capacity) settle(ctx context.Context, uid string) error {
	c.mu.Lock()
	_, counted := c.plan.Running(uid)
	orphaned := !c.owned[uid] && (counted || c.plan.Waits(uid))
	c.mu.Unlock()
	if !orphaned {
		return nil
	}
	state, err := c.host.Machines.Observe(ctx, uid)
	if err != nil {
		return fmt.Errorf("observing machine %s: %w", uid, err)
	}
	c.mu.Lock()
	if state.Phase.Alive() || c.owned[uid] {
		c.mu.Unlock()
		return nil
	}
	c.finish(c.plan.Release(uid), uid)
	return nil
}

// report returns the current figures and the queue for users. They are not in the status
// of the objects: each machine that starts would change them for all that wait.
func (c *Capacity) report(ctx context.Context) (access.Capacity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(ctx); err != nil {
		return access.Capacity{}, err
	}
	limits, used := c.plan.Limits(), c.plan.Used()
	out := access.Capacity{
		Memory:        access.Usage{Used: used.Memory, Limit: limits.Memory},
		Installations: access.Usage{Used: int64(used.Installations), Limit: int64(limits.Installations)},
		Machines:      int64(used.Machines),
		Waiting:       []access.Waiting{},
	}
	for _, d := range c.plan.Queue() {
		kind := access.Target
		if d.Kind == plan.KindServer {
			kind = access.Server
		}
		why, _ := c.plan.Wait(d.UID)
		if shown, ok := c.shown[d.UID]; ok && shown.Reason == why.Reason {
			why = shown // its figures are those of the time that the message names
		}
		out.Waiting = append(out.Waiting, access.Waiting{
			Kind: kind, Namespace: d.Namespace, Name: d.Name, Reason: why.Reason, Message: why.Message, Since: d.Since,
		})
	}
	return out, nil
}
