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

// ensureAddress allocates the target's MAC and IP address.
func (r *BareMetalTargetReconciler) ensureAddress(ctx context.Context, scope *targetScope) (*halt, error) {
	if scope.server == nil || scope.badNetwork {
		return nil, nil // a target that has an address keeps it
	}
	if plan.AwaitsAdoption(scope.target, scope.record) {
		return nil, nil // adopted disks hold the addresses of their system
	}
	claim, err := r.addresses.allocate(ctx, r, allocationRequest{scope.network, scope.server, scope.target})
	var invalid *plan.InvalidError
	if errors.As(err, &invalid) {
		scope.refuse(invalid)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	scope.target.Status.NICs = []v1alpha1.NICStatus{{
		Name: scope.target.Spec.Machine.BootNIC().Name, MAC: claim.MAC, Addresses: []string{claim.Address.String()},
	}}
	return nil, nil
}

// addressAllocations records the addresses on each server's network. Those that the
// targets' statuses hold are read once for each server, and this process records what it
// allocates, because a status that was just written may not be in the cache yet. An
// allocation therefore costs the same whatever the number of targets. It is safe for
// concurrent use.
type addressAllocations struct {
	mu      sync.Mutex
	servers map[types.UID]*plan.Addresses
	// serverOf is the server on whose network a target is.
	serverOf map[types.UID]types.UID
}

// allocationRequest is one target's request, and what limits it.
type allocationRequest struct {
	network plan.Network
	server  *v1alpha1.ProvisioningServer
	target  *v1alpha1.BareMetalTarget
}

// allocate returns the MAC and IP address of a target. The error is an
// *plan.InvalidError, or one of reading the other targets.
func (a *addressAllocations) allocate(ctx context.Context, c client.Reader, r allocationRequest) (plan.AddressAllocation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addresses, err := a.of(ctx, c, r)
	if err != nil {
		return plan.AddressAllocation{}, err
	}
	if a.serverOf[r.target.UID] != r.server.UID {
		a.leave(r.target.UID) // a server that was created again is another one
		a.serverOf[r.target.UID] = r.server.UID
	}
	return addresses.Allocate(r.network, r.target, func(addr netip.Addr) (bool, error) {
		declaring, err := targetsWith(ctx, c, fieldAddress, types.NamespacedName{
			Namespace: r.target.Namespace, Name: addressKey(r.server.Name, addr.String()),
		})
		for i := range declaring {
			// Its own reconciliation will allocate this address.
			if declaring[i].UID != r.target.UID {
				return true, err
			}
		}
		return false, err
	})
}

// of returns the addresses on the network of a request's server. The first time it reads
// them from the statuses of all targets. It requires a.mu.
func (a *addressAllocations) of(ctx context.Context, c client.Reader, r allocationRequest) (*plan.Addresses, error) {
	if addresses := a.servers[r.server.UID]; addresses != nil {
		return addresses, nil
	}
	targets, err := targetsWith(ctx, c, fieldServer, client.ObjectKeyFromObject(r.server))
	if err != nil {
		return nil, err
	}
	addresses := plan.NewAddresses(r.server.UID, r.network)
	if a.servers == nil {
		a.servers = map[types.UID]*plan.Addresses{}
		a.serverOf = map[types.UID]types.UID{}
	}
	for i := range targets {
		if held, ok := plan.AllocationOf(&targets[i]); ok {
			addresses.Hold(targets[i].UID, held)
			a.serverOf[targets[i].UID] = r.server.UID
		}
	}
	a.servers[r.server.UID] = addresses
	return addresses, nil
}

// release forgets a target that is gone, and its server's addresses with the last one.
func (a *addressAllocations) release(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leave(uid)
}

// leave requires a.mu.
func (a *addressAllocations) leave(uid types.UID) {
	server := a.serverOf[uid]
	delete(a.serverOf, uid)
	addresses := a.servers[server]
	if addresses == nil {
		return
	}
	addresses.Release(uid)
	if addresses.Len() == 1 { // the server itself
		delete(a.servers, server)
	}
}

// addressKey is the value of fieldAddress for an address that a target declares.
func addressKey(server, address string) string { return fmt.Sprintf("%s/%s", server, address) }

// declaredAddresses returns the values of fieldAddress of a target.
func declaredAddresses(t *v1alpha1.BareMetalTarget) []string {
	var keys []string
	for _, text := range t.Spec.Machine.BootNIC().Addresses {
		// The schema refuses what is not an address.
		if addr, err := netip.ParseAddr(string(text)); err == nil {
			keys = append(keys, addressKey(t.Spec.ProvisioningServerRef.Name, addr.String()))
		}
	}
	return keys
}
