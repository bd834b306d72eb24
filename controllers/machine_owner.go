// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"

	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/plan"
)

// recordOwner records with the machine what is needed to remove it if the target is lost
// without being deleted.
func (r *BareMetalTargetReconciler) recordOwner(_ context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	owner := ownership.MachineOwner{
		Kind: plan.KindTarget, Namespace: t.Namespace, Name: t.Name, UID: string(t.UID),
		Retention: string(t.Spec.DiskRetention), Cluster: r.Host.Cluster,
		Architecture: string(t.Spec.Machine.Architecture), Runner: string(t.Spec.Machine.Runner),
		MAC: t.BootNICStatus().MAC, Address: t.BootNICStatus().Address(),
	}
	var disks []string
	for _, d := range t.Spec.Machine.Disks {
		disks = append(disks, string(d.Name))
	}
	owner.Disks = strings.Join(disks, ",")
	if scope.server != nil {
		owner.Network = string(scope.server.UID)
		owner.Mode = string(scope.server.Spec.Network.Mode)
	} else if old, err := ownership.LoadMachine(scope.paths.Dir); err == nil {
		owner.Network = old.Network
		owner.Mode = old.Mode
	}
	return nil, ownership.RecordMachine(scope.paths.Dir, owner)
}

// recordOwner records with the machine what is needed to remove it if the server is lost
// without being deleted.
func (r *ProvisioningServerReconciler) recordOwner(_ context.Context, scope *serverScope) (*halt, error) {
	s := scope.server
	return nil, ownership.RecordMachine(scope.paths.Dir, ownership.MachineOwner{
		Kind: plan.KindServer, Namespace: s.Namespace, Name: s.Name, UID: string(s.UID),
		Network: string(s.UID), Mode: string(s.Spec.Network.Mode), Cluster: r.Host.Cluster,
	})
}
