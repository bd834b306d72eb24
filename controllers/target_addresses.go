// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// ensureAddress allocates the target's MAC and IP address.
func (r *BareMetalTargetReconciler) ensureAddress(ctx context.Context, scope *targetScope) (*halt, error) {
	if scope.server == nil || scope.badNetwork {
		return nil, nil // a target that has an address keeps it
	}
	targets, err := targetsWith(ctx, r, fieldServer, client.ObjectKeyFromObject(scope.server))
	if err != nil {
		return nil, err
	}
	claim, err := r.addresses.allocate(allocationRequest{scope.network, scope.server, scope.target, targets})
	var invalid *plan.InvalidError
	if errors.As(err, &invalid) {
		scope.refuse(invalid)
		return nil, nil
	}
	scope.target.Status.NICs = []v1alpha1.NICStatus{{
		Name: scope.target.Spec.Machine.BootNIC().Name, MAC: claim.MAC, Addresses: []string{claim.Address.String()},
	}}
	return nil, nil
}

// addressAllocations records what this process allocated, because a status that was
// just written may not be in the cache yet. It is safe for concurrent use.
type addressAllocations struct {
	mu   sync.Mutex
	held map[types.UID]plan.AddressAllocation
}

// allocationRequest is one target's request, and what limits it.
type allocationRequest struct {
	network plan.Network
	server  *v1alpha1.ProvisioningServer
	target  *v1alpha1.BareMetalTarget
	// targets are all targets of the server; they are only read.
	targets []v1alpha1.BareMetalTarget
}

// allocate returns the MAC and IP address of a target.
func (a *addressAllocations) allocate(r allocationRequest) (plan.AddressAllocation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil {
		a.held = map[types.UID]plan.AddressAllocation{}
	}
	held, _ := a.heldBy(r.target)
	claim, err := plan.Allocate(r.network, r.target, held, a.others(r))
	if err != nil {
		delete(a.held, r.target.UID)
		return claim, err
	}
	a.held[r.target.UID] = claim
	return claim, nil
}

// others returns the allocations of the other machines on the network.
func (a *addressAllocations) others(r allocationRequest) []plan.AddressAllocation {
	t := r.target
	others := []plan.AddressAllocation{{
		Name: "the provisioning server", MAC: plan.MAC(string(r.server.UID), plan.DeviceLab), Address: r.network.Server,
	}}
	_, holds := a.heldBy(t)
	for i := range r.targets {
		o := &r.targets[i]
		if o.UID == t.UID {
			continue
		}
		if claim, ok := a.heldBy(o); ok {
			others = append(others, claim)
		} else if address, ok := specAddress(o); ok && len(t.Spec.Machine.BootNIC().Addresses) == 0 && !holds {
			// Its own reconciliation will allocate this address.
			others = append(others, plan.AddressAllocation{Name: o.Name, Address: address})
		}
	}
	return others
}

func specAddress(t *v1alpha1.BareMetalTarget) (netip.Addr, bool) {
	nic := t.Spec.Machine.BootNIC()
	if len(nic.Addresses) == 0 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(nic.Addresses[0]))
	return addr, err == nil
}

// heldBy returns a target's allocation, from memory or from its status.
func (a *addressAllocations) heldBy(t *v1alpha1.BareMetalTarget) (plan.AddressAllocation, bool) {
	if claim, ok := a.held[t.UID]; ok {
		return claim, true
	}
	return plan.AllocationOf(t)
}

func (a *addressAllocations) release(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held, uid)
}
