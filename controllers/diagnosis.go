// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/diagnosis"
	"github.com/pxelab/pxelab/internal/qemu"
)

// diagnoseEvery is how often the log of a booting machine is looked at. A
// machine that installs is reconciled far more often.
const diagnoseEvery = 10 * time.Second

// serialLogs remembers what the machines' serial logs said when they were last
// looked at. It is safe for concurrent use; a restart only looks again.
type serialLogs struct {
	mu   sync.Mutex
	seen map[types.UID]logLook
}

// logLook is one look at the log of one boot.
type logLook struct {
	at       time.Time
	start    time.Time
	resets   int
	panicked bool
	finding  *diagnosis.Finding
}

// diagnose says what a running machine's serial log tells of its present boot,
// nil for nothing. It reads the log at most every diagnoseEvery, and at once
// when the machine was reset or its kernel panicked.
func (l *serialLogs) diagnose(uid types.UID, path string, m qemu.State, now time.Time) *diagnosis.Finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.seen[uid]
	next := logLook{at: now, start: m.StartedAt, resets: m.Resets, panicked: m.GuestPanicked}
	same := known && old.start.Equal(next.start) && old.resets == next.resets && old.panicked == next.panicked
	if same && now.Sub(old.at) < diagnoseEvery {
		return old.finding
	}
	// A log that cannot be read says nothing; what is wrong with its directory
	// is said by who writes there.
	if text, err := diagnosis.Tail(path, m.SerialOffset); err == nil {
		if f, found := diagnosis.Diagnose(text); found {
			next.finding = &f
		}
	}
	if l.seen == nil {
		l.seen = map[types.UID]logLook{}
	}
	l.seen[uid] = next
	return next.finding
}

func (l *serialLogs) forget(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, uid)
}

// announceStall tells why a target does not go on, once for each reason.
func announceStall(recorder events.EventRecorder, t, base *v1alpha1.BareMetalTarget) {
	is := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionProgressing)
	was := meta.FindStatusCondition(base.Status.Conditions, v1alpha1.ConditionProgressing)
	if is == nil || is.Status != metav1.ConditionFalse {
		return
	}
	if was != nil && was.Status == is.Status && was.Reason == is.Reason {
		return
	}
	tell(recorder, t, corev1.EventTypeWarning, is.Reason, "Reconcile", is.Message)
}
