// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func (h *labHandler) progress(r *labRequest) {
	var p installerapi.Progress
	if err := json.NewDecoder(http.MaxBytesReader(r.w, r.r.Body, maxReport)).Decode(&p); err != nil {
		h.fail(r, http.StatusBadRequest, "ReportRefused", fmt.Errorf("%w: %w", errBadReport, err))
		return
	}
	p.Message, p.Waiting = redact(r.machine, p.Message), redact(r.machine, p.Waiting)
	for i := range p.Warnings {
		p.Warnings[i] = redact(r.machine, p.Warnings[i])
	}
	step := false
	err := h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		before := s.Install
		err := sawProgress(s, p, h.state.now().UTC())
		step = err == nil && isStep(before, s.Install)
		return err
	})
	if err != nil {
		h.refuseReport(r, err)
		return
	}
	if step {
		h.state.record(r.machine, netbootapi.Event{
			Kind: netbootapi.EventInstaller, Name: string(p.Stage),
			Detail: strings.TrimSpace(fmt.Sprintf("%d of %d bytes %s", p.BytesWritten, p.BytesTotal, clip(p.Message))),
		})
	}
	if p.Stage == installerapi.StageDone || p.Stage == installerapi.StageFailed {
		h.persist(r.machine.UID)
		level := slog.LevelDebug
		if p.Stage == installerapi.StageFailed {
			level = slog.LevelInfo
		}
		h.log.Log(r.r.Context(), level, "installer ended", "machine", r.machine.Name, "stage", p.Stage, "message", clip(p.Message))
	}
	if p.Stage == installerapi.StageDone {
		h.awaitConfirmation(r)
	}
	r.w.WriteHeader(http.StatusNoContent)
}

// isStep reports whether an installation has another stage, or reached another tenth of
// the image, than before.
func isStep(before, after *netbootapi.InstallState) bool {
	if before == nil || before.Stage != after.Stage {
		return true
	}
	return tenth(before) != tenth(after)
}

func tenth(s *netbootapi.InstallState) int64 {
	if s.BytesTotal <= 0 {
		return 0
	}
	return int64(10 * (float64(s.BytesWritten) / float64(s.BytesTotal)))
}

func (h *labHandler) refuseReport(r *labRequest, err error) {
	h.state.refuse("ReportRefused")
	status := http.StatusBadRequest
	if errors.Is(err, errOldAttempt) || errors.Is(err, errOutOfOrder) {
		status = http.StatusConflict
	}
	h.fail(r, status, "ReportRefused", err)
}

// awaitConfirmation blocks until the machine's entry confirms the
// machine's boot order, for at most confirmLimit. The installer continues either
// way: a later network boot leads to the disk as well.
func (h *labHandler) awaitConfirmation(r *labRequest) {
	limit := time.NewTimer(confirmLimit)
	defer limit.Stop()
	for {
		changed := h.state.entryChanged(r.machine.UID)
		m, _ := h.state.machine(r.machine.UID)
		if m == nil || m.Attempt != r.machine.Attempt || m.BootConfirmed == m.Attempt {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			h.log.Info("continuing without the manager's confirmation of the boot order", "machine", r.machine.Name)
			return
		case <-r.r.Context().Done():
			return
		}
	}
}

func (h *labHandler) phoneHome(r *labRequest) {
	r.r.Body = http.MaxBytesReader(r.w, r.r.Body, maxReport)
	if err := r.r.ParseForm(); err != nil {
		h.fail(r, http.StatusBadRequest, "ReportRefused", fmt.Errorf("%w: %w", errBadReport, err))
		return
	}
	keys, refused := hostKeys(r.r.PostForm)
	report := netbootapi.PhoneHome{
		At:         h.state.now().UTC(),
		InstanceID: clip(r.r.PostForm.Get("instance_id")),
		Hostname:   clip(redact(r.machine, r.r.PostForm.Get("hostname"))),
		HostKeys:   keys,
	}
	first := false
	err := h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		first = policy.MaySeed(r.machine, *s)
		err := sawPhoneHome(s, r.machine, report)
		if err == nil && first && len(refused) > 0 {
			warn(s, report.At, "HostKeyRefused", "not an SSH host key of the field's type: %s", strings.Join(refused, ", "))
		}
		return err
	})
	if err != nil {
		h.refuseReport(r, err)
		return
	}
	if !first {
		r.w.WriteHeader(http.StatusOK) // sent again, as after a lost answer
		return
	}
	h.persist(r.machine.UID)
	h.state.record(r.machine, netbootapi.Event{
		Kind: netbootapi.EventPhoneHome, Name: "PhoneHome", Detail: fmt.Sprintf("%s, %d host keys", report.Hostname, len(report.HostKeys)),
	})
	h.log.Debug("machine phoned home", "machine", r.machine.Name, "hostKeys", len(report.HostKeys))
	r.w.WriteHeader(http.StatusOK)
}
