// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/ownership"
	"github.com/pxelab/pxelab/internal/plan"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// adoptionRecheck is how often a target looks for the disks that it is to adopt: what
// retains them does not know of it.
const adoptionRecheck = 10 * time.Second

// adoptDisks moves the retained disks that the target declares into its machine's
// directory. It precedes everything that depends on what the disks hold.
func (r *BareMetalTargetReconciler) adoptDisks(ctx context.Context, scope *targetScope) (*halt, error) {
	t := scope.target
	if !plan.AwaitsAdoption(t, scope.record) {
		return nil, nil
	}
	var found plan.Retained
	if scope.record.Generation != 0 { // an interrupted adoption has moved them
		moved, err := retainedIn(scope.paths.Dir)
		if err != nil {
			return nil, err
		}
		if moved.UID == "" || moved.UID == string(t.UID) {
			return nil, fmt.Errorf("adopting the disks in %s: the record of their former target is lost; create another target, "+
				"or restore the file %s", scope.paths.Dir, ownership.MachineRecordName)
		}
		found = moved
	} else {
		retained, invalid, err := r.adoptable(ctx, t)
		if err != nil {
			return nil, err
		}
		if invalid != nil {
			scope.recheck = adoptionRecheck
			if invalid.Reason == v1alpha1.ReasonRetainedDisksInUse {
				scope.block(invalid.Reason, "%s", invalid.Message) // until that target is gone
			} else {
				scope.refuse(invalid)
			}
			return nil, nil
		}
		found = retained
	}
	record, err := targetdisk.Adopt(targetdisk.Adoption{
		From: found.Dir, Dir: scope.paths.Dir, Disks: disksOf(t, scope.paths.Dir),
		Retained: found.UID, MAC: found.MAC, Address: found.Address, Keep: []string{ownership.MachineRecordName},
	})
	if err != nil {
		return nil, err
	}
	ctrl.LoggerFrom(ctx).Info("Adopted disks", "retained", found.UID, "of", found.Name, "record", record.String())
	recordEvent(r.Events, t, event{corev1.EventTypeNormal, v1alpha1.ReasonDisksAdopted, "Adopt",
		fmt.Sprintf("the disks of the deleted target %s (%s) were adopted: %s", found.Name, found.UID, record)})
	scope.setRecord(record)
	return nil, nil
}

// adoptable returns the retained disks that the target adopts, or why it cannot.
func (r *BareMetalTargetReconciler) adoptable(ctx context.Context, t *v1alpha1.BareMetalTarget) (plan.Retained, *plan.InvalidError, error) {
	dirs, err := filesIn(r.Host.RetainedDir)
	if err != nil {
		return plan.Retained{}, nil, fmt.Errorf("listing retained disks: %w", err)
	}
	var all []plan.Retained
	for _, dir := range dirs {
		// A damaged record of one target must not keep others from their disks.
		if found, err := retainedIn(dir); err == nil {
			all = append(all, found)
		}
	}
	user, err := r.userOf(ctx, t)
	if err != nil {
		return plan.Retained{}, nil, err
	}
	found, invalid := plan.Adoptable(t, all, user)
	return found, invalid, nil
}

// userOf returns the name of the existing target that the source of a target's disks refers
// to, by name or UID, "" if there is none.
func (r *BareMetalTargetReconciler) userOf(ctx context.Context, t *v1alpha1.BareMetalTarget) (string, error) {
	want := plan.RetainedSource(t)
	other := &v1alpha1.BareMetalTarget{}
	err := r.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: want}, other)
	if client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("reading target %s: %w", want, err)
	}
	if err == nil && other.UID != t.UID {
		return other.Name, nil
	}
	owner, err := ownership.LoadMachine(r.Host.paths(want).Dir)
	if err == nil && owner.Namespace == t.Namespace && owner.UID == want && want != string(t.UID) {
		return owner.Name, nil
	}
	return "", nil // a record that cannot be read does not name a user
}

// retainedIn describes the disks in a directory with the record of their owner.
func retainedIn(dir string) (plan.Retained, error) {
	owner, err := ownership.LoadMachine(dir)
	if err != nil {
		return plan.Retained{}, err
	}
	record, err := targetdisk.Load(dir)
	if err != nil {
		return plan.Retained{}, err
	}
	found := plan.Retained{
		Dir: dir, Kind: owner.Kind, Namespace: owner.Namespace, Name: owner.Name, UID: owner.UID,
		Architecture: owner.Architecture, Runner: owner.Runner, MAC: owner.MAC, Address: owner.Address, Record: record,
	}
	if owner.Disks != "" {
		found.Disks = strings.Split(owner.Disks, ",")
	}
	for i := range found.Disks {
		info, err := os.Lstat(plan.DiskPath(dir, i))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular():
			found.Sizes = append(found.Sizes, -1)
		case err != nil:
			return plan.Retained{}, fmt.Errorf("reading the disks in %s: %w", filepath.Base(dir), err)
		default:
			found.Sizes = append(found.Sizes, info.Size())
		}
	}
	return found, nil
}
