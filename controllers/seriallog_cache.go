// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/seriallog"
)

// diagnosisInterval is how often the log of a booting machine is read. A machine that
// is being installed is reconciled far more often.
const diagnosisInterval = 10 * time.Second

// serialLogCache caches the diagnosis of each machine's serial log. It is safe for
// concurrent use; after a restart the logs are read again.
type serialLogCache struct {
	mu   sync.Mutex
	seen map[types.UID]logDiagnosis
}

// logDiagnosis is the diagnosis of one boot.
type logDiagnosis struct {
	at       time.Time
	start    time.Time
	resets   int
	panicked bool
	finding  *seriallog.Finding
}

// diagnose returns the diagnosis of a running machine's current boot from its serial
// log; nil for none. It reads the log at most every diagnosisInterval, and at once
// after a reset or a panic of the kernel.
func (l *serialLogCache) diagnose(uid types.UID, path string, m machine.State, now time.Time) *seriallog.Finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.seen[uid]
	next := logDiagnosis{at: now, start: m.StartedAt, resets: m.Resets, panicked: m.GuestPanicked}
	same := known && old.start.Equal(next.start) && old.resets == next.resets && old.panicked == next.panicked
	if same && now.Sub(old.at) < diagnosisInterval {
		return old.finding
	}
	// A log that cannot be read yields no diagnosis; the writer reports problems of
	// its directory.
	if text, err := seriallog.Tail(path, m.SerialOffset); err == nil {
		if f, found := seriallog.Diagnose(text); found {
			next.finding = &f
		}
	}
	if l.seen == nil {
		l.seen = map[types.UID]logDiagnosis{}
	}
	l.seen[uid] = next
	return next.finding
}

func (l *serialLogCache) forget(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, uid)
}
