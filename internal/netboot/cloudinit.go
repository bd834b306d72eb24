// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
)

// maxFailures bounds what is kept of a cloud-init that fails at everything.
const maxFailures = 8

// stageLast is the last of cloud-init's stages.
const stageLast = "modules-final"

// cloudInitEvent is what cloud-init's webhook handler posts: a stage
// ("modules-final") or one of its modules ("modules-final/config-scripts_user")
// begins or ends.
type cloudInitEvent struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Type        string `json:"event_type"`
	Origin      string `json:"origin"`
	// Result of the end: SUCCESS, WARN or FAIL.
	Result string `json:"result"`
}

var cloudInitName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_./-]{1,128})?$`)

// cloudInitReport takes an event of an installed machine's cloud-init. There
// are about a hundred in a boot, so only those that others act upon are told
// at once.
func (h *labHandler) cloudInitReport(r *labRequest) {
	var e cloudInitEvent
	if err := json.NewDecoder(http.MaxBytesReader(r.w, r.r.Body, maxReport)).Decode(&e); err != nil {
		h.fail(r, http.StatusBadRequest, "ReportRefused", fmt.Errorf("%w: %w", errBadReport, err))
		return
	}
	if !cloudInitName.MatchString(e.Name) || e.Type != "start" && e.Type != "finish" {
		h.refuseReport(r, fmt.Errorf("%w: event %q of type %q", errBadReport, clip(e.Name), clip(e.Type)))
		return
	}
	h.keeper.quiet(r.machine, func(s *agent.MachineState) bool {
		return sawCloudInit(s, r.machine, e, h.keeper.now().UTC())
	})
	r.w.WriteHeader(http.StatusNoContent)
}

// sawCloudInit applies an event. It reports whether others want to know at
// once: a stage, a failure, the end.
func sawCloudInit(s *agent.MachineState, m *agent.Machine, e cloudInitEvent, at time.Time) bool {
	if !installed(m, *s) && m.Boot != agent.BootDisk {
		return false // of another life of the disk
	}
	next := agent.CloudInitState{}
	if s.CloudInit != nil {
		next = *s.CloudInit
	}
	stage, module, _ := strings.Cut(e.Name, "/")
	news := next.Stage != stage
	next.UpdatedAt, next.Stage, next.Module = at, stage, ""
	switch {
	case e.Type == "start":
		next.Module = module
		if !next.EndedAt.IsZero() {
			next.EndedAt, news = time.Time{}, true // another boot
		}
	case module == "" && stage == stageLast:
		next.EndedAt, news = at, true
	}
	if e.Type == "finish" {
		before := len(next.Failures)
		next.Failures = failures(next.Failures, stage, module, e)
		news = news || len(next.Failures) != before
	}
	s.CloudInit = &next
	return news
}

// failures is what has failed after an end. A stage's result is that of the
// worst of its modules, so it counts only where none of them says more. A
// module that was left out because it ran before has not mended anything.
func failures(known []agent.CloudInitFailure, stage, module string, e cloudInitEvent) []agent.CloudInitFailure {
	at := slices.IndexFunc(known, func(f agent.CloudInitFailure) bool { return f.Stage == stage && f.Module == module })
	if e.Result != "FAIL" {
		if at >= 0 && !strings.Contains(e.Description, "previously ran") {
			return slices.Delete(slices.Clone(known), at, at+1)
		}
		return known
	}
	ofStage := func(f agent.CloudInitFailure) bool { return f.Stage == stage }
	if at >= 0 || len(known) >= maxFailures || module == "" && slices.ContainsFunc(known, ofStage) {
		return known
	}
	return append(slices.Clone(known), agent.CloudInitFailure{Stage: stage, Module: module, Description: clip(e.Description)})
}
