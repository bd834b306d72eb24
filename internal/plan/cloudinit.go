// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/diagnosis"
)

// endPatience is how long after a machine phoned home the end of its cloud-init
// is waited for: the report of it may have been lost, or the user's data may
// have turned reports off.
const endPatience = 30 * time.Second

// cloudInitFailed reports whether the installed system's cloud-init ended with
// errors. A machine on which the user's data was not applied is not Ready,
// though people may log in to it. While cloud-init still runs there is more to
// come, and the failure is told with it.
func cloudInitFailed(seen *agent.MachineState, phoned bool) bool {
	return seen != nil && seen.CloudInit != nil && len(seen.CloudInit.Failures) > 0 &&
		(phoned || !seen.CloudInit.EndedAt.IsZero())
}

// cloudInitEnds reports whether a machine that has just phoned home may still
// say that something failed.
func cloudInitEnds(o TargetObservation) bool {
	if o.Seen == nil || o.Seen.CloudInit == nil || o.Seen.PhoneHome == nil || !o.Seen.CloudInit.EndedAt.IsZero() {
		return false
	}
	// The report's time is by another clock, which may be anywhere.
	since := o.Now.Sub(o.Seen.PhoneHome.At)
	return since > -endPatience && since < endPatience
}

// cloudInitFinding says what failed.
func cloudInitFinding(s *agent.CloudInitState) diagnosis.Finding {
	f := diagnosis.Finding{Kind: diagnosis.CloudInitFailed, Ended: true}
	var names []string
	for _, failure := range s.Failures {
		name := "stage " + failure.Stage
		if failure.Module != "" {
			name = fmt.Sprintf("%s in stage %s", strings.TrimPrefix(failure.Module, "config-"), failure.Stage)
		}
		names = append(names, name)
	}
	f.Explanation = "cloud-init failed: " + strings.Join(names, ", ") +
		"; see /var/log/cloud-init-output.log on the machine, correct the user-data and raise installGeneration"
	return f
}

// cloudInitPlace says what cloud-init was at when it was last heard.
func cloudInitPlace(step Step, seen *agent.MachineState) string {
	if step != stepCloudInit || seen == nil || seen.CloudInit == nil {
		return ""
	}
	c := seen.CloudInit
	place := fmt.Sprintf("; it was last heard in stage %s", c.Stage)
	if c.Module != "" {
		place += ", running " + strings.TrimPrefix(c.Module, "config-")
	}
	if len(c.Failures) > 0 {
		place += "; " + cloudInitFinding(c).Explanation
	}
	return place
}
