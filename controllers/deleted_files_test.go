// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// Content that is deleted from the store while the manager runs is fetched again.
func TestDeletedContentIsFetchedAgain(t *testing.T) {
	l := up(t)
	for i, source := range []string{"debian-kernel", "debian.qcow2", "overlay for x86_64"} {
		l.library.lose(source)
		// A reconciliation is due within 30 s anyway.
		update(l, l.profile("debian"), func(p *v1alpha1.BootProfile) { p.Annotations = map[string]string{"reconcile": fmt.Sprint(i)} })
		l.eventually(func() string {
			if !l.library.stores(source) {
				return source + " was not fetched again"
			}
			return ""
		})
	}
	l.create(newTarget("target-1"))
	l.becomesReady("target-1")
}

// A server's disk that is deleted is created again for its next start.
func TestDeletedServerDiskIsCreatedAgain(t *testing.T) {
	l := up(t)
	server := l.server("lab")
	disk := plan.ServerDiskPath(l.machineDir(server), server)
	l.must(os.Remove(disk))
	l.machines.crash(string(server.UID))
	l.sleep(time.Minute) // the pause of a machine that ended
	l.reconciled(server)
	l.eventually(func() string {
		if n := l.machines.starts(string(server.UID)); n < 2 {
			return "the server was not started again"
		}
		return ""
	})
	if _, err := os.Stat(disk); err != nil {
		t.Errorf("disk of the server that was started: got %v, want one", err)
	}
	l.waitReadyServer("lab")
}

// A disk with an installed system that is deleted is not replaced by a blank one.
func TestDeletedDiskOfInstalledTargetIsReported(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	disk := plan.DiskPath(l.machineDir(target), 0)
	l.must(os.Remove(disk))
	l.reconciled(target)
	l.waitCondition(target, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonDiskMissing, disk)
	l.waitCondition(target, v1alpha1.ConditionValid, "True", v1alpha1.ReasonValid, "")
	l.checkAlive(target, true)
	l.machines.crash(string(target.UID))
	l.waitPhase("target-1", v1alpha1.TargetFailed)
	l.waitCondition(target, v1alpha1.ConditionReady, "False", v1alpha1.ReasonDiskMissing, "raise spec.installGeneration")
	for range 3 {
		l.sleep(time.Hour)
		l.reconciled(target)
	}
	l.checkStarts(target, 1)
	if _, err := os.Stat(disk); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("disk of an installed target: got %v, want it not to be created", err)
	}
	update(l, l.target("target-1"), func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.InstallGeneration = 2 })
	target = l.waitTarget("target-1", "being installed again", func(bmt *v1alpha1.BareMetalTarget) bool { return bmt.Status.DiskGeneration == 2 })
	l.becomesReady("target-1")
	l.waitCondition(target, v1alpha1.ConditionReady, "True", v1alpha1.ReasonReady, "")
}

// A disk that is deleted during the installation is created again, for another attempt.
func TestDeletedDiskIsInstalledAgain(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.waitAttempt("target-1", 1)
	l.installs(target, 370)
	l.waitPhase("target-1", v1alpha1.TargetInstalling)
	disk := plan.DiskPath(l.machineDir(target), 0)
	l.must(os.Remove(disk))
	l.reconciled(target)
	target = l.waitAttempt("target-1", 2)
	if _, err := os.Stat(disk); err != nil {
		t.Errorf("disk of the next attempt: got %v, want one", err)
	}
	if a := target.Status.Attempts; a.Failed != 0 {
		t.Errorf("got %d failed attempts, want none", a.Failed)
	}
	l.becomesReady("target-1")
}
