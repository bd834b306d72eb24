// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/machine"
)

// promptly is how long a deletion may take, whatever is being done to the
// machine.
const promptly = time.Minute

// waitGonePromptly waits for the end of objects whose deletion began at a time,
// and wants it in time.
func (l *lab) waitGonePromptly(began time.Time, what string, objects ...client.Object) {
	l.t.Helper()
	for _, o := range objects {
		l.waitGone(o)
	}
	took := time.Since(began).Round(time.Millisecond)
	l.t.Logf("%s: gone after %s", what, took)
	if took > promptly {
		l.t.Errorf("%s: got a deletion that took %s, want at most %s", what, took, promptly)
	}
}

// Deleted in every phase, a target leaves nothing.
func TestTargetIsDeletedInEveryPhase(t *testing.T) {
	l := up(t)
	begin := func(phase v1alpha1.TargetPhase, edit func(*v1alpha1.BareMetalTarget)) *v1alpha1.BareMetalTarget {
		t.Helper()
		target := newTarget(strings.ToLower(string(phase)))
		apply(edit, target)
		l.create(target)
		return target
	}
	forPhase := map[v1alpha1.TargetPhase]func() *v1alpha1.BareMetalTarget{
		v1alpha1.TargetPending: func() *v1alpha1.BareMetalTarget {
			return begin(v1alpha1.TargetPending, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.BootProfileRef.Name = "none" })
		},
		v1alpha1.TargetPXE: func() *v1alpha1.BareMetalTarget { return begin(v1alpha1.TargetPXE, nil) },
		v1alpha1.TargetInstalling: func() *v1alpha1.BareMetalTarget {
			target := begin(v1alpha1.TargetInstalling, nil)
			l.installs(l.waitAttempt(target.Name, 1), 370)
			return target
		},
		v1alpha1.TargetBooting: func() *v1alpha1.BareMetalTarget {
			target := begin(v1alpha1.TargetBooting, nil)
			l.installs(l.waitAttempt(target.Name, 1), 370)
			l.finishes(target)
			return target
		},
		v1alpha1.TargetReady: func() *v1alpha1.BareMetalTarget {
			target := begin(v1alpha1.TargetReady, nil)
			l.becomesReady(target.Name)
			return target
		},
		v1alpha1.TargetStopped: func() *v1alpha1.BareMetalTarget {
			return begin(v1alpha1.TargetStopped, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
		},
		v1alpha1.TargetFailed: func() *v1alpha1.BareMetalTarget {
			target := begin(v1alpha1.TargetFailed, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.MaxAttempts = 1 })
			l.breaks(l.waitAttempt(target.Name, 1), "the disk is on fire")
			return target
		},
	}
	for phase, make := range forPhase {
		target := make()
		l.waitPhase(target.Name, phase)
		began := time.Now()
		l.must(l.client.Delete(l.ctx, target))
		l.waitGonePromptly(began, string(phase), target)
	}
	server, profile := l.server("lab"), l.profile("debian")
	began := time.Now()
	l.must(l.client.Delete(l.ctx, server))
	l.must(l.client.Delete(l.ctx, profile))
	l.waitGonePromptly(began, "server and profile", server, profile)
	l.nothingIsLeft()
}

// A deletion does not wait for the guest, not even when a shutdown does.
func TestTargetIsDeletedDuringShutdown(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"))
	target := l.becomesReady("target-1")
	l.machines.keepsWaiting(string(target.UID))
	update(l, target, func(bmt *v1alpha1.BareMetalTarget) { bmt.Spec.Power = v1alpha1.PowerOff })
	l.eventually(func() string {
		if l.state(target).PowerDownRequestedAt.IsZero() {
			return "the power button was not pressed"
		}
		return ""
	})
	began := time.Now()
	l.must(l.client.Delete(l.ctx, target))
	l.waitGonePromptly(began, "deaf target", target)
	if got := l.state(target).Phase; got != machine.PhaseNotFound {
		t.Errorf("machine of a deleted target: got phase %s, want %s", got, machine.PhaseNotFound)
	}
}

// A namespace that is deleted takes its objects in any order, Secrets first,
// and lets nothing new be made in it.
func TestNamespaceIsDeleted(t *testing.T) {
	l := up(t)
	l.create(newTarget("target-1"), newTarget("target-2"))
	l.becomesReady("target-1")
	l.installs(l.waitAttempt("target-2", 1), 370)
	objects := []client.Object{l.target("target-1"), l.target("target-2"), l.server("lab"), l.profile("debian")}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.ns}}
	l.must(l.client.Delete(l.ctx, ns))
	l.eventually(func() string {
		l.must(l.client.Get(l.ctx, client.ObjectKeyFromObject(ns), ns))
		if ns.Status.Phase != corev1.NamespaceTerminating {
			return "the namespace is not terminating"
		}
		return ""
	})
	began := time.Now()
	// As the namespace controller does, which need not run here.
	for _, o := range []client.Object{&corev1.Secret{}, &v1alpha1.ProvisioningServer{}, &v1alpha1.BootProfile{}, &v1alpha1.BareMetalTarget{}} {
		l.must(l.client.DeleteAllOf(l.ctx, o, client.InNamespace(l.ns)))
	}
	l.waitGonePromptly(began, "namespace", objects...)
	l.nothingIsLeft()
}
