// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// The phases are shown with 0 machines as well, so that a phase that machines have left
// is not taken for one that is unknown.
var (
	targetPhases = []v1alpha1.TargetPhase{
		v1alpha1.TargetPending, v1alpha1.TargetPXE, v1alpha1.TargetInstalling, v1alpha1.TargetBooting,
		v1alpha1.TargetReady, v1alpha1.TargetStopped, v1alpha1.TargetFailed, v1alpha1.TargetDeleting,
	}
	serverPhases = []v1alpha1.ServerPhase{
		v1alpha1.ServerPending, v1alpha1.ServerBooting, v1alpha1.ServerReady, v1alpha1.ServerDegraded,
		v1alpha1.ServerFailed, v1alpha1.ServerDeleting,
	}
)

// tally counts objects by two labels.
type tally map[[2]string]int

func (t tally) emit(ch chan<- prometheus.Metric, f *Family, labels ...string) {
	for key, n := range t {
		f.emit(ch, float64(n), append(labels[:len(labels):len(labels)], key[0], key[1])...)
	}
}

func collectServers(ch chan<- prometheus.Metric, servers []v1alpha1.ProvisioningServer) {
	phases := tally{}
	for i := range servers {
		s := &servers[i]
		for _, phase := range serverPhases {
			phases[[2]string{s.Namespace, string(phase)}] += 0
		}
		phase := string(cmp.Or(s.Status.Phase, v1alpha1.ServerPending))
		phases[[2]string{s.Namespace, phase}]++
		serverPhase.emit(ch, 1, s.Namespace, s.Name, phase)
	}
	phases.emit(ch, &machines, KindServer)
}

func collectTargets(ch chan<- prometheus.Metric, targets []v1alpha1.BareMetalTarget) {
	phases, stalled, waiting := tally{}, tally{}, tally{}
	for i := range targets {
		t := &targets[i]
		for _, phase := range targetPhases {
			phases[[2]string{t.Namespace, string(phase)}] += 0
		}
		phase := cmp.Or(t.Status.Phase, v1alpha1.TargetPending)
		phases[[2]string{t.Namespace, string(phase)}]++
		progressing := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionProgressing)
		if progressing == nil {
			continue
		}
		if progressing.Status == metav1.ConditionFalse {
			stalled[[2]string{t.Namespace, progressing.Reason}]++
		}
		if phase == v1alpha1.TargetPending {
			waiting[[2]string{t.Namespace, progressing.Reason}]++
		}
	}
	phases.emit(ch, &machines, KindTarget)
	stalled.emit(ch, &targetsStalled)
	waiting.emit(ch, &targetsWaiting)
}
