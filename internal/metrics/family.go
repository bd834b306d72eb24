// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// The types of metrics, as in Prometheus' text format.
const (
	typeCounter   = "counter"
	typeGauge     = "gauge"
	typeHistogram = "histogram"
)

// Family describes a metric.
type Family struct {
	Name   string
	Type   string // "counter", "gauge" or "histogram"
	Help   string
	Labels []string

	desc *prometheus.Desc
}

func newFamily(kind, name, help string, labels ...string) Family {
	name = "pxelab_" + name
	return Family{Name: name, Type: kind, Help: help, Labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
}

// emit sends a value that was read for a scrape. labels has the values of f.Labels.
func (f *Family) emit(ch chan<- prometheus.Metric, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if f.Type == typeCounter {
		kind = prometheus.CounterValue
	}
	ch <- prometheus.MustNewConstMetric(f.desc, kind, value, labels...)
}

func (f *Family) counterVec() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help}, f.Labels)
}

// What a Recorder counts.
var (
	phaseSeconds = newFamily(typeHistogram, "target_phase_seconds",
		"How long targets were in a phase, observed when it ends.", "phase")
	installAttempts = newFamily(typeCounter, "install_attempts_total",
		"Installation attempts that have ended, by result (Succeeded, Failed) and reason.", "result", "reason")
	machineRestarts = newFamily(typeCounter, "machine_restarts_total",
		"Starts of machines after an end that was not requested, by the reason of the end.", "kind", "reason")
	machineObservations = newFamily(typeCounter, "machine_observations_total",
		"Observations of machines by reconciliations.")
	apiWrites = newFamily(typeCounter, "api_writes_total",
		"Requests for changes that the API server answered, by resource, subresource (empty for the object itself) and verb.",
		"resource", "subresource", "verb")
	machineConfinement = newFamily(typeGauge, "machine_confinement_version",
		"Version of the host's Landlock, which confines QEMU to the files of its machine; 0 if the host has none.")
)

// What a Collector reads.
var (
	machines = newFamily(typeGauge, "machines",
		"Objects with a machine, by kind and phase.", "kind", "namespace", "phase")
	targetsStalled = newFamily(typeGauge, "targets_stalled",
		"Targets whose condition Progressing is False, by its reason.", "namespace", "reason")
	targetsWaiting = newFamily(typeGauge, "targets_waiting",
		"Targets in phase Pending, by the reason of their condition Progressing.", "namespace", "reason")
	serverPhase = newFamily(typeGauge, "server_phase",
		"1 for the current phase of each server.", "namespace", "server", "phase")
	reconcileOldest = newFamily(typeGauge, "reconcile_oldest_seconds",
		"Age of the oldest reconciliation that is in progress; 0 if there is none.", "kind")
	networkFrames = newFamily(typeCounter, "network_frames_total",
		"Frames that the user-space switch received from machines.", "namespace", "server")
	networkBytes = newFamily(typeCounter, "network_bytes_total",
		"Bytes that the user-space switch received from machines.", "namespace", "server")
	networkDropped = newFamily(typeCounter, "network_dropped_frames_total",
		"Frames that the user-space switch refused or could not deliver, by kind.", "namespace", "server", "kind")
	storeBytes = newFamily(typeGauge, "artifact_store_bytes",
		"Disk space of the content of the artifact store; at most a minute old.")
	storeFiles = newFamily(typeGauge, "artifact_store_files",
		"Files in the artifact store; at most a minute old.")
	storeFree = newFamily(typeGauge, "artifact_store_free_bytes",
		"Free space of the artifact store's file system; at most a minute old.")
	collectionFailures = newFamily(typeCounter, "collection_failures_total",
		"Parts of scrapes that are missing because their source failed or did not answer in time.", "source")

	netbootdUp = newFamily(typeGauge, "netbootd_up",
		"1 if the server's netbootd answered the last request for its metrics, else 0.", "namespace", "server")
	netbootdStart = newFamily(typeGauge, "netbootd_start_time_seconds",
		"When the server's netbootd was started, in seconds since 1970, by the clock of its machine.", "namespace", "server")
	netbootdRequests = newFamily(typeCounter, "netbootd_requests_total",
		"Requests to netbootd, by service (dhcp, tftp, http, dns, ntp), kind and result.", "namespace", "server", "service", "kind", "result")
	netbootdRefused = newFamily(typeCounter, "netbootd_refused_requests_total",
		"Requests that netbootd refused, by kind.", "namespace", "server", "kind")
	netbootdSent = newFamily(typeCounter, "netbootd_sent_bytes_total",
		"Bytes that netbootd sent to machines, by service (tftp, http).", "namespace", "server", "service")
	netbootdRenderings = newFamily(typeCounter, "netbootd_renderings_total",
		"Texts that netbootd rendered, by file and result (OK, Failed).", "namespace", "server", "file", "result")
	netbootdLeases = newFamily(typeGauge, "netbootd_leases",
		"DHCP leases in force.", "namespace", "server")
	netbootdMachines = newFamily(typeGauge, "netbootd_machines",
		"Entries of machines in netbootd.", "namespace", "server")
	netbootdFiles = newFamily(typeGauge, "netbootd_store_files",
		"Files and texts that netbootd stores.", "namespace", "server")
	netbootdBytes = newFamily(typeGauge, "netbootd_store_bytes",
		"Size of the files and texts that netbootd stores.", "namespace", "server")
	netbootdFree = newFamily(typeGauge, "netbootd_store_free_bytes",
		"Free space of the file system of netbootd's store.", "namespace", "server")
)

// recorded and collected are the metrics of a Recorder and of a Collector, in the order
// of the documentation.
var (
	recorded  = []*Family{&phaseSeconds, &installAttempts, &machineRestarts, &machineObservations, &apiWrites, &machineConfinement}
	collected = []*Family{
		&machines, &targetsStalled, &targetsWaiting, &serverPhase, &reconcileOldest,
		&networkFrames, &networkBytes, &networkDropped, &storeBytes, &storeFiles, &storeFree, &collectionFailures,
		&netbootdUp, &netbootdStart, &netbootdRequests, &netbootdRefused, &netbootdSent, &netbootdRenderings,
		&netbootdLeases, &netbootdMachines, &netbootdFiles, &netbootdBytes, &netbootdFree,
	}
)

// Families returns all metrics of this package.
func Families() []Family {
	var all []Family
	for _, list := range [][]*Family{recorded, collected} {
		for _, f := range list {
			all = append(all, *f)
		}
	}
	return all
}
