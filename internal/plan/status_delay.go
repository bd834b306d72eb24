// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// How old the status of a target must be before it is replaced by one that differs only
// in the progress within its phase. A target passes several steps a second, an installer
// reports several times a second, and each write of a status is one of the cluster's
// database.
const (
	percentEvery  = time.Second     // another stage or percentage of the installation
	progressEvery = 5 * time.Second // another step or message, or more bytes
)

// TargetStatusDelay returns how long the write of a target's status has to wait: 0 if
// after differs from before, the status in the API, in more than the progress within the
// phase. Otherwise the status in the API must have reached an age. age is the time since
// this process wrote it.
//
// A status that is not written loses nothing: the next reconciliation computes all that
// may wait from its own observations.
func TargetStatusDelay(before, after *v1alpha1.BareMetalTargetStatus, age time.Duration) time.Duration {
	if !equality.Semantic.DeepEqual(withoutProgress(before), withoutProgress(after)) {
		return 0
	}
	every := progressEvery
	if b, a := before.Install, after.Install; b != nil && a != nil && (b.Stage != a.Stage || b.Percent != a.Percent) {
		every = percentEvery
	}
	return max(0, every-age)
}

// withoutProgress returns the part of a status whose changes are written at once.
func withoutProgress(s *v1alpha1.BareMetalTargetStatus) v1alpha1.BareMetalTargetStatus {
	out := *s
	out.Progress = ""
	out.Message = ""
	if s.Install != nil {
		out.Install = &v1alpha1.InstallProgress{ID: s.Install.ID}
	}
	out.Conditions = make([]metav1.Condition, len(s.Conditions))
	for i, c := range s.Conditions {
		c.Message = ""
		out.Conditions[i] = c
	}
	return out
}
