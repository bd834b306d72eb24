// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/plan"
)

// underway remembers what machines are being installed from, so that a change
// of their profile does not take it from them half-way: it counts for the next
// installation, also for the next attempt after one that failed. What a restart
// of the manager forgets is read from the profile again. The zero value is
// empty; it is safe for concurrent use.
type underway struct {
	mu   sync.Mutex
	held map[types.UID]map[types.UID]plan.DocumentTarget // by server and target
}

// hold returns targets, those with an installation under way as they were when
// it began.
func (u *underway) hold(server types.UID, targets []plan.DocumentTarget, seen map[string]agent.MachineState) []plan.DocumentTarget {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held == nil {
		u.held = map[types.UID]map[types.UID]plan.DocumentTarget{}
	}
	before, now := u.held[server], map[types.UID]plan.DocumentTarget{}
	out := make([]plan.DocumentTarget, 0, len(targets))
	for _, d := range targets {
		uid := d.Target.UID
		old, known := before[uid]
		if known && installing(d, seen[string(uid)]) && plan.Attempt(old.Target) == plan.Attempt(d.Target) {
			d.Profile, d.Content, d.Texts = old.Profile, old.Content, old.Texts
		}
		if d.Content != nil {
			now[uid] = d
		}
		out = append(out, d)
	}
	u.held[server] = now
	return out
}

// installing reports whether this very attempt is under way, from the
// installer's plan until its system has phoned home: that reads its data last.
// Who powers the machine off gives up what was held.
func installing(d plan.DocumentTarget, seen agent.MachineState) bool {
	return !d.PowerOn.IsZero() && seen.Attempt == plan.Attempt(d.Target) && seen.PhoneHome == nil &&
		seen.ProfileDigest != "" && (seen.Install == nil || seen.Install.Error == "")
}

// forget is called when a server is gone.
func (u *underway) forget(server types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.held, server)
}
