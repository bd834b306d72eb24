// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of objects.
const (
	KindServer  = "ProvisioningServer"
	KindProfile = "BootProfile"
	KindTarget  = "BareMetalTarget"
)

// AttemptResult is how an installation attempt ended.
type AttemptResult string

// The results of an attempt.
const (
	AttemptSucceeded AttemptResult = "Succeeded"
	AttemptFailed    AttemptResult = "Failed"
)

// phaseBuckets reach from a simulated machine's phases to an emulated one's, in seconds.
var phaseBuckets = []float64{0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 3600}

// Recorder counts what happens in the manager. It is a [prometheus.Collector]. It is safe
// for concurrent use; a nil Recorder counts nothing.
type Recorder struct {
	phases       *prometheus.HistogramVec
	attempts     *prometheus.CounterVec
	restarts     *prometheus.CounterVec
	observations prometheus.Counter
	writes       *prometheus.CounterVec
	confinement  prometheus.Gauge
}

// NewRecorder returns a Recorder, which is not registered.
func NewRecorder() *Recorder {
	return &Recorder{
		phases: prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Name: phaseSeconds.Name, Help: phaseSeconds.Help, Buckets: phaseBuckets}, phaseSeconds.Labels),
		attempts:     installAttempts.counterVec(),
		restarts:     machineRestarts.counterVec(),
		observations: prometheus.NewCounter(prometheus.CounterOpts{Name: machineObservations.Name, Help: machineObservations.Help}),
		writes:       apiWrites.counterVec(),
		confinement:  prometheus.NewGauge(prometheus.GaugeOpts{Name: machineConfinement.Name, Help: machineConfinement.Help}),
	}
}

func (r *Recorder) collectors() []prometheus.Collector {
	return []prometheus.Collector{r.phases, r.attempts, r.restarts, r.observations, r.writes, r.confinement}
}

// Describe implements [prometheus.Collector].
func (r *Recorder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.collectors() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (r *Recorder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.collectors() {
		c.Collect(ch)
	}
}

// PhaseEnded records that a target has left a phase in which it was for d.
func (r *Recorder) PhaseEnded(phase string, d time.Duration) {
	if r != nil {
		r.phases.WithLabelValues(phase).Observe(d.Seconds())
	}
}

// AttemptEnded counts an installation attempt. reason is one of the API's.
func (r *Recorder) AttemptEnded(result AttemptResult, reason string) {
	if r != nil {
		r.attempts.WithLabelValues(string(result), reason).Inc()
	}
}

// MachineRestarted counts the start of a machine of an object of this kind. reason is why
// its last process ended; it is "" if that was requested, or for the first process, which
// is not counted.
func (r *Recorder) MachineRestarted(kind, reason string) {
	if r != nil && reason != "" {
		r.restarts.WithLabelValues(kind, reason).Inc()
	}
}

// Confinement sets the version of Landlock that the host has.
func (r *Recorder) Confinement(version int) {
	if r != nil {
		r.confinement.Set(float64(version))
	}
}

// MachineObserved counts an observation of a machine.
func (r *Recorder) MachineObserved() {
	if r != nil {
		r.observations.Inc()
	}
}
