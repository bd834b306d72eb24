// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/metrics"
)

// syncPatience is how long a readiness check waits for the caches.
const syncPatience = time.Second

var errNotSynced = errors.New("the caches are not synced yet")

// ReadyChecks returns the conditions under which the manager is ready: its caches are
// synced, every object that existed at its start was reconciled, so that the machines
// that run are adopted, and no reconciliation takes too long. They do not depend on the
// state of the lab.
func (s *Set) ReadyChecks() map[string]healthz.Checker {
	return map[string]healthz.Checker{
		"caches":     func(r *http.Request) error { return s.checkSynced(r.Context()) },
		"adoption":   func(r *http.Request) error { return s.checkAdopted(r.Context()) },
		"reconciles": func(*http.Request) error { return s.watchdog.check() },
	}
}

// OldestReconciles returns the age of the oldest reconciliation in progress of each kind,
// 0 if there is none.
func (s *Set) OldestReconciles() map[string]time.Duration { return s.watchdog.oldest() }

func (s *Set) checkSynced(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	if !s.cache.WaitForCacheSync(ctx) {
		return errNotSynced
	}
	return nil
}

// adoption has the objects that existed when the manager was checked first, by UID, and
// were not reconciled yet.
type adoption struct {
	mu      sync.Mutex
	pending map[types.UID]string // their names; nil before the first check
}

// checkAdopted returns an error until each of these objects was reconciled or is gone.
// Objects that are created later do not matter.
func (s *Set) checkAdopted(ctx context.Context) error {
	s.adoption.mu.Lock()
	defer s.adoption.mu.Unlock()
	pending := s.adoption.pending
	if pending == nil || len(pending) > 0 {
		if err := s.checkSynced(ctx); err != nil {
			return err
		}
		now, err := s.unreconciled(ctx)
		if err != nil {
			return err
		}
		if pending == nil {
			pending = now
		}
		maps.DeleteFunc(pending, func(uid types.UID, _ string) bool { return now[uid] == "" })
		s.adoption.pending = pending
	}
	if len(pending) > 0 {
		names := slices.Sorted(maps.Values(pending))
		return fmt.Errorf("%d objects were not reconciled since the start of the manager, one is %s", len(names), names[0])
	}
	return nil
}

// unreconciled returns the objects in the cache that were not reconciled since the start
// of the manager: their names by UID.
func (s *Set) unreconciled(ctx context.Context) (map[types.UID]string, error) {
	missing := map[types.UID]string{}
	for _, kind := range []struct {
		name   string
		list   client.ObjectList
		source *eventSource
	}{
		{metrics.KindServer, &v1alpha1.ProvisioningServerList{}, s.server.external},
		{metrics.KindProfile, &v1alpha1.BootProfileList{}, s.profile.external},
		{metrics.KindTarget, &v1alpha1.BareMetalTargetList{}, s.target.external},
	} {
		err := s.cache.List(ctx, kind.list, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("listing objects of kind %s: %w", kind.name, err)
		}
		err = meta.EachListItem(kind.list, func(o runtime.Object) error {
			if object := o.(client.Object); !kind.source.reconciledOnce(object.GetUID()) {
				missing[object.GetUID()] = fmt.Sprintf("%s %s/%s", kind.name, object.GetNamespace(), object.GetName())
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing objects of kind %s: %w", kind.name, err)
		}
	}
	return missing, nil
}
