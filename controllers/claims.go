// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// ensureClaim gives the target its MAC and address.
func (r *BareMetalTargetReconciler) ensureClaim(ctx context.Context, w *targetWork) error {
	if w.server == nil {
		return nil
	}
	// The list is only read: to copy it for each of them would be the square of
	// all targets.
	list := &v1alpha1.BareMetalTargetList{}
	if err := r.List(ctx, list, client.InNamespace(w.target.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing targets: %w", err)
	}
	claim, err := r.claims.allocate(w.network, w.server, w.target, list.Items)
	var invalid *plan.InvalidError
	if errors.As(err, &invalid) {
		w.refuse(invalid)
		return nil
	}
	w.target.Status.MACAddress, w.target.Status.Address = claim.MAC, claim.Address.String()
	return nil
}

// claims remembers what was allocated in this process, because a status that
// was just written may not be in the cache yet. It is safe for concurrent use.
type claims struct {
	mu   sync.Mutex
	held map[types.UID]plan.Claim
}

func (c *claims) allocate(n plan.Network, server *v1alpha1.ProvisioningServer, t *v1alpha1.BareMetalTarget, all []v1alpha1.BareMetalTarget) (plan.Claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[types.UID]plan.Claim{}
	}
	others := []plan.Claim{{Name: "the provisioning server", MAC: plan.MAC(string(server.UID), plan.DeviceLab), Address: n.Server}}
	held, holds := c.claimOf(t)
	for i := range all {
		o := &all[i]
		if o.UID == t.UID || o.Spec.ProvisioningServerRef != t.Spec.ProvisioningServerRef {
			continue
		}
		if claim, ok := c.claimOf(o); ok {
			others = append(others, claim)
		} else if declared, ok := declaredAddress(o); ok && t.Spec.Address == "" && !holds {
			// It will ask for this one: do not be in its way.
			others = append(others, plan.Claim{Name: o.Name, Address: declared})
		}
	}
	claim, err := plan.Allocate(n, t, held, others)
	if err != nil {
		delete(c.held, t.UID)
		return claim, err
	}
	c.held[t.UID] = claim
	return claim, nil
}

func declaredAddress(t *v1alpha1.BareMetalTarget) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(string(t.Spec.Address))
	return addr, err == nil
}

// claimOf is what a target holds, by memory or by its status.
func (c *claims) claimOf(t *v1alpha1.BareMetalTarget) (plan.Claim, bool) {
	if claim, ok := c.held[t.UID]; ok {
		return claim, true
	}
	return plan.ClaimOf(t)
}

func (c *claims) release(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, uid)
}
