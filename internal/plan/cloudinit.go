// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/seriallog"
)

// finishTimeout is how long to wait for cloud-init to finish after the machine
// phoned home. The report may be lost, or the user-data may disable reports.
const finishTimeout = 30 * time.Second

// cloudInitFailed reports whether cloud-init finished with errors. A machine to
// which the user-data was not fully applied is not Ready, even if it accepts
// logins. While cloud-init still runs, more failures may follow, so that they
// are reported together.
func cloudInitFailed(seen *netbootapi.MachineState, phoned bool) bool {
	return seen != nil && seen.CloudInit != nil && len(seen.CloudInit.Failures) > 0 &&
		(phoned || !seen.CloudInit.EndedAt.IsZero())
}

// cloudInitFinishing reports whether a machine has just phoned home, so that it
// may still report a failure.
func cloudInitFinishing(o TargetObservation) bool {
	if o.Seen == nil || o.Seen.CloudInit == nil || o.Seen.PhoneHome == nil || !o.Seen.CloudInit.EndedAt.IsZero() {
		return false
	}
	// The report's time comes from another clock, which may be wrong.
	since := o.Now.Sub(o.Seen.PhoneHome.At)
	return since > -finishTimeout && since < finishTimeout
}

// cloudInitFinding describes the modules and stages that failed.
func cloudInitFinding(s *netbootapi.CloudInitState) seriallog.Finding {
	f := seriallog.Finding{Kind: seriallog.CloudInitFailed, Ended: true}
	var names []string
	for _, failure := range s.Failures {
		name := "stage " + failure.Stage
		if failure.Module != "" {
			name = fmt.Sprintf("%s in stage %s", strings.TrimPrefix(failure.Module, "config-"), failure.Stage)
		}
		names = append(names, name)
	}
	f.Explanation = "cloud-init failed: " + strings.Join(names, ", ") +
		"; read /var/log/cloud-init-output.log on the machine, correct the user-data and raise spec.installGeneration"
	return f
}

// cloudInitPosition describes the last stage and module that cloud-init reported.
func cloudInitPosition(step Step, seen *netbootapi.MachineState) string {
	if step != stepCloudInit || seen == nil || seen.CloudInit == nil {
		return ""
	}
	c := seen.CloudInit
	position := fmt.Sprintf("; its last report was in stage %s", c.Stage)
	if c.Module != "" {
		position += ", running " + strings.TrimPrefix(c.Module, "config-")
	}
	if len(c.Failures) > 0 {
		position += "; " + cloudInitFinding(c).Explanation
	}
	return position
}
