// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/plan"
)

// restartHistory records how the machines of one kind of object have ended. It is safe
// for concurrent use. After a restart of the manager the pauses begin with the shortest.
type restartHistory struct {
	mu     sync.Mutex
	ends   map[types.UID]plan.Restarts
	faults map[types.UID]fault
}

// fault is what is wrong with a process, and since when.
type fault struct {
	why              string
	startedAt, since time.Time
}

// observe returns the history of a machine after an observation.
func (h *restartHistory) observe(uid types.UID, state machine.State, now time.Time) plan.Restarts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.set(uid, h.ends[uid].Observe(state, now))
}

// ended returns the history of a machine whose process has to be ended.
func (h *restartHistory) ended(uid types.UID, startedAt, now time.Time) plan.Restarts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.set(uid, h.ends[uid].Ended(startedAt, now))
}

func (h *restartHistory) set(uid types.UID, r plan.Restarts) plan.Restarts {
	if r.Count == 0 {
		delete(h.ends, uid)
		return r
	}
	if h.ends == nil {
		h.ends = map[types.UID]plan.Restarts{}
	}
	h.ends[uid] = r
	return r
}

// faultSince records what is wrong with a machine, "" for nothing, and returns since
// when it is.
func (h *restartHistory) faultSince(uid types.UID, why string, startedAt, now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if why == "" {
		delete(h.faults, uid)
		return now
	}
	if f, ok := h.faults[uid]; ok && f.why == why && f.startedAt.Equal(startedAt) {
		return f.since
	}
	if h.faults == nil {
		h.faults = map[types.UID]fault{}
	}
	h.faults[uid] = fault{why: why, startedAt: startedAt, since: now}
	return now
}

// forget drops the history of a machine.
func (h *restartHistory) forget(uid types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ends, uid)
	delete(h.faults, uid)
}
