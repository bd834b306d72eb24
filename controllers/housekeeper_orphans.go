// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/labnet"
	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// hostMachine is a machine of this host and its record.
type hostMachine struct {
	plan.HostMachine
	owner ownership.MachineOwner
}

// removeOrphans reports machines without an object, and removes those whose grace period
// has passed. It does nothing while the API server cannot be read.
func (h *housekeeper) removeOrphans(ctx context.Context) error {
	// Machines first: one that is created meanwhile is in neither list or has an
	// object.
	machines, err := h.hostMachines(ctx)
	if err != nil {
		return err
	}
	cached, err := machineOwners(ctx, h)
	if err != nil {
		return err
	}
	in := plan.OrphanInput{
		Objects: cached, Cluster: h.host.Cluster, Namespaces: h.host.Namespaces, Known: h.orphans, Now: h.host.Now(),
		Grace: h.host.Housekeeping.OrphanGrace,
	}
	for _, m := range machines {
		in.Machines = append(in.Machines, m.HostMachine)
	}
	if slices.ContainsFunc(in.Machines, func(m plan.HostMachine) bool { return !cached[m.ID] }) {
		// The cache may be behind.
		live, err := machineOwners(ctx, h.live)
		if err != nil {
			return err
		}
		for uid := range live {
			in.Objects[uid] = true
		}
	}
	known, reported := map[string]plan.Orphan{}, map[string]string{}
	var errs []error
	for _, o := range plan.Orphans(in) {
		known[o.ID] = o
		if _, again := h.orphans[o.ID]; !again {
			continue // its object may have been deleted between the two lists
		}
		if held, ok := h.reported[o.ID]; !ok || held != o.Held {
			h.reportOrphan(ctx, o)
		}
		reported[o.ID] = o.Held
		if !o.Remove {
			continue
		}
		if err := h.removeOrphan(ctx, o, machines[o.ID].owner); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(known, o.ID)
	}
	h.orphans = known
	h.reported = reported
	return errors.Join(errs...)
}

// hostMachines returns all machines of this host by ID: those that the runner knows, and
// those of which only a directory is left.
func (h *housekeeper) hostMachines(ctx context.Context) (map[string]hostMachine, error) {
	states, err := h.host.Machines.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing machines: %w", err)
	}
	dirs, err := ownership.ListMachines(h.host.DataDir)
	if err != nil {
		return nil, err
	}
	all := map[string]hostMachine{}
	for _, d := range dirs {
		all[d.ID] = hostMachine{
			HostMachine: plan.HostMachine{
				ID: d.ID, Kind: d.Owner.Kind, Namespace: d.Owner.Namespace, Name: d.Owner.Name,
				Retention: v1alpha1.DiskRetention(d.Owner.Retention), Cluster: d.Owner.Cluster,
				HasDisks: d.HasDisks,
			},
			owner: d.Owner,
		}
	}
	for _, s := range states {
		m := all[s.ID]
		m.ID = s.ID
		m.Unknown = s.Problem != ""
		if m.Name == "" {
			m.Namespace, m.Name, _ = strings.Cut(s.Name, "/")
		}
		all[s.ID] = m
	}
	return all, nil
}

// reportOrphan logs a machine without an object and emits an Event about the object that
// it had.
func (h *housekeeper) reportOrphan(ctx context.Context, o plan.Orphan) {
	dir := h.host.paths(o.ID).Dir
	consequence := "it is not removed automatically: " + o.Held + "; to remove it, stop the manager and its machines, and delete " + dir
	if o.Held == "" {
		consequence = "it is stopped and its directory is deleted at " + o.RemoveAt.UTC().Format("2006-01-02T15:04:05Z")
		if o.Retain {
			consequence = "it is stopped and its disks move to " + h.host.RetainedDir + " at " + o.RemoveAt.UTC().Format("2006-01-02T15:04:05Z")
		}
	}
	ctrl.LoggerFrom(ctx).Error(nil, "A machine has no object", "machine", o.ID, "kind", o.Kind, "namespace", o.Namespace, "name", o.Name,
		"directory", dir, "consequence", consequence)
	h.recordOrphanEvent(o, event{corev1.EventTypeWarning, v1alpha1.ReasonOrphaned, "Housekeeping",
		"machine " + o.ID + " has no object; " + consequence})
}

// recordOrphanEvent emits an Event in the namespace of the object that a machine had.
func (h *housekeeper) recordOrphanEvent(o plan.Orphan, e event) {
	meta := metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: types.UID(o.ID)}
	var object client.Object
	switch o.Kind {
	case plan.KindServer:
		object = &v1alpha1.ProvisioningServer{ObjectMeta: meta}
	case plan.KindTarget:
		object = &v1alpha1.BareMetalTarget{ObjectMeta: meta}
	default:
		return // its object is not recorded; the log has it
	}
	recordEvent(h.events, object, e)
}

// removeOrphan stops a machine and removes it, or moves its directory to the retained
// ones. It is completed by the next call if it is interrupted.
func (h *housekeeper) removeOrphan(ctx context.Context, o plan.Orphan, owner ownership.MachineOwner) error {
	paths := h.host.paths(o.ID)
	options := machine.StopOptions{}
	if o.Retain {
		options.ACPITimeout = shutdownTimeout
	}
	if _, err := h.host.Machines.Stop(ctx, o.ID, options); err != nil {
		return fmt.Errorf("stopping machine %s, which has no object: %w", o.ID, err)
	}
	if err := h.disconnect(o, owner, paths); err != nil {
		return fmt.Errorf("disconnecting machine %s, which has no object: %w", o.ID, err)
	}
	result := "its directory was deleted"
	if o.Retain {
		// Before the runner forgets the machine, so that it is known until then.
		dst, err := targetdisk.RetainDir(paths.Dir, filepath.Join(h.host.RetainedDir, retainedName(o)))
		if err != nil {
			return err
		}
		result = "its disks are retained in " + dst
	}
	if err := errors.Join(h.host.Machines.Remove(ctx, o.ID), targetdisk.Remove(paths.Dir)); err != nil {
		return fmt.Errorf("removing machine %s, which has no object: %w", o.ID, err)
	}
	ctrl.LoggerFrom(ctx).Info("Removed a machine without an object", "machine", o.ID, "namespace", o.Namespace, "name", o.Name, "result", result)
	h.recordOrphanEvent(o, event{corev1.EventTypeNormal, v1alpha1.ReasonMachineRemoved, "Housekeeping",
		"machine " + o.ID + " had no object and was removed; " + result})
	return nil
}

// disconnect removes a machine from its network, and the network of a server.
func (h *housekeeper) disconnect(o plan.Orphan, owner ownership.MachineOwner, paths machine.Paths) error {
	if owner.Mode != "" {
		err := h.host.Networks.Detach(labnet.Attachment{
			Network: owner.Network, Mode: labnet.Mode(owner.Mode), Machine: o.ID, Sockets: paths.Sockets})
		if err != nil {
			return err
		}
	}
	if o.Kind != plan.KindServer {
		return nil
	}
	h.host.Sessions.Remove(o.ID)
	return h.host.Networks.Remove(o.ID)
}

// retainedName is the name of the directory that keeps the data of a machine.
func retainedName(o plan.Orphan) string {
	if o.Name == "" {
		return o.ID
	}
	return fmt.Sprintf("%s-%s-%s", o.Namespace, o.Name, o.ID)
}
