// SPDX-License-Identifier: Apache-2.0

// Package metrics exports what the manager does and observes in Prometheus' format.
//
// A [Recorder] counts what happens: its methods cost as little as a map access. A
// [Collector] reads what exists when it is scraped: the objects in the manager's cache,
// the networks, the artifact store and the counters of each netbootd. Nothing is computed
// by a reconciliation.
//
// The labels of a metric are bounded by the API's closed sets, by the namespaces and by
// the servers; none depends on the number of targets or on what guests send.
package metrics
