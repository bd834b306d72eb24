// SPDX-License-Identifier: Apache-2.0

package artifact

import "time"

const (
	reportEvery = 200 * time.Millisecond
	rateWindow  = 3 * time.Second
)

// meter limits how often progress is reported and computes the rate. It is not
// safe for concurrent use.
type meter struct {
	report func(Progress)
	now    func() time.Time

	p         Progress
	last      time.Time
	markAt    time.Time // start of the interval over which the rate is measured
	markBytes int64
	prevAt    time.Time // becomes the mark after rateWindow
	prevBytes int64
}

func newMeter(report func(Progress)) *meter { return &meter{report: report, now: time.Now} }

// stage starts a stage at done of total bytes and reports it.
func (m *meter) stage(stage Stage, done, total int64) {
	now := m.now()
	m.p = Progress{Stage: stage, BytesDone: done, BytesTotal: total}
	m.markAt, m.markBytes = now, done
	m.prevAt, m.prevBytes = now, done
	m.send(now)
}

// at records the progress of the stage and reports it if a report is due.
func (m *meter) at(done int64) {
	m.p.BytesDone = done
	now := m.now()
	if now.Sub(m.last) < reportEvery {
		return
	}
	if now.Sub(m.prevAt) >= rateWindow {
		m.markAt, m.markBytes = m.prevAt, m.prevBytes
		m.prevAt, m.prevBytes = now, done
	}
	if d := now.Sub(m.markAt); d > 0 {
		m.p.Rate = max(float64(done-m.markBytes)/d.Seconds(), 0)
	}
	m.send(now)
}

func (m *meter) send(now time.Time) {
	m.last = now
	m.report(m.p)
}
