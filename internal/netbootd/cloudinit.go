// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// maxFailures bounds the recorded failures of a machine.
const maxFailures = 8

// stageLast is the last of cloud-init's stages.
const stageLast = "modules-final"

// cloudInitEvent is the body that cloud-init's webhook handler posts when a stage
// ("modules-final") or one of its modules ("modules-final/config-scripts_user")
// starts or finishes.
type cloudInitEvent struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Type        string `json:"event_type"`
	Origin      string `json:"origin"`
	// Result of the end: SUCCESS, WARN or FAIL.
	Result string `json:"result"`
}

var cloudInitName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_./-]{1,128})?$`)

// cloudInitReport records an event of an installed machine's cloud-init. A boot
// posts about a hundred, so only those that the manager acts on are published at
// once.
func (h *labHandler) cloudInitReport(r *labRequest) {
	var e cloudInitEvent
	if err := json.NewDecoder(http.MaxBytesReader(r.w, r.r.Body, maxReport)).Decode(&e); err != nil {
		h.fail(r, http.StatusBadRequest, "ReportRefused", fmt.Errorf("%w: %w", errBadReport, err))
		return
	}
	for _, text := range []*string{&e.Name, &e.Description, &e.Result} {
		*text = redact(r.machine, *text)
	}
	if !cloudInitName.MatchString(e.Name) || e.Type != "start" && e.Type != "finish" {
		h.refuseReport(r, fmt.Errorf("%w: event %q of type %q", errBadReport, clip(e.Name), clip(e.Type)))
		return
	}
	h.state.quiet(r.machine, func(s *netbootapi.MachineState) bool {
		return sawCloudInit(s, r.machine, e, h.state.now().UTC())
	})
	h.state.record(r.machine, netbootapi.Event{
		Kind: netbootapi.EventCloudInit, Name: e.Name, Detail: strings.TrimSpace(e.Type + " " + clip(e.Result) + " " + clip(e.Description)),
	})
	r.w.WriteHeader(http.StatusNoContent)
}

// sawCloudInit applies an event. It reports whether the change must be published
// at once: a new stage, a failure, the end.
func sawCloudInit(s *netbootapi.MachineState, m *netbootapi.Machine, e cloudInitEvent, at time.Time) bool {
	if !policy.IsInstalled(m, *s) && m.Boot != netbootapi.BootDisk {
		return false // from a system that an earlier attempt installed
	}
	next := netbootapi.CloudInitState{}
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

// failures returns known updated by a finish event. A stage has the result of its
// worst module, so its failure is recorded only if none of its modules is. A
// module that cloud-init skipped because it ran before remains failed.
func failures(known []netbootapi.CloudInitFailure, stage, module string, e cloudInitEvent) []netbootapi.CloudInitFailure {
	at := slices.IndexFunc(known, func(f netbootapi.CloudInitFailure) bool { return f.Stage == stage && f.Module == module })
	if e.Result != "FAIL" {
		if at >= 0 && !strings.Contains(e.Description, "previously ran") {
			return slices.Delete(slices.Clone(known), at, at+1)
		}
		return known
	}
	ofStage := func(f netbootapi.CloudInitFailure) bool { return f.Stage == stage }
	if at >= 0 || len(known) >= maxFailures || module == "" && slices.ContainsFunc(known, ofStage) {
		return known
	}
	return append(slices.Clone(known), netbootapi.CloudInitFailure{Stage: stage, Module: module, Description: clip(e.Description)})
}
