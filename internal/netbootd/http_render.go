// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Names of rendered files, in events and for input.
const (
	fileScript = "boot.ipxe"
	filePlan   = "plan"
)

func (h *labHandler) script(r *labRequest) {
	d := h.decide(r.machine)
	in, err := h.input(r, fileScript)
	if err != nil {
		h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", err)
		return
	}
	text, err := h.renderer.Script(r.r.Context(), in, d)
	h.state.counters.sawRendering(fileScript, err)
	if err != nil {
		h.fail(r, http.StatusInternalServerError, "IPXETemplateFailed", err)
		return
	}
	h.state.newBoot(r.machine)
	_ = h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		now := h.state.now().UTC()
		if d.Action == policy.ActionDisk {
			s.DiskBootAt = now
		} else {
			first(&s.ScriptAt, now)
		}
		return nil
	})
	r.log.Info("answered a network boot", "action", d.Action, "reason", d.Reason)
	h.record(r, fileScript, fmt.Sprintf("%s: %s", d.Action, d.Message))
	writeText(r.w, text)
}

func (h *labHandler) plan(r *labRequest) {
	if d := h.decide(r.machine); d.Action != policy.ActionInstall {
		h.fail(r, http.StatusConflict, "InstallRefused", fmt.Errorf("%s must not be installed now: %s", r.machine.Name, d.Message))
		return
	}
	in, err := h.input(r, filePlan)
	if err != nil {
		h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", err)
		return
	}
	plan, err := h.renderer.InstallPlan(r.r.Context(), in)
	h.state.counters.sawRendering(filePlan, err)
	if err != nil {
		h.fail(r, http.StatusUnprocessableEntity, "TemplateFailed", err)
		return
	}
	if err := h.state.fetchedPlan(r.machine); err != nil {
		h.fail(r, http.StatusConflict, "InstallRefused", err)
		return
	}
	// From now on the content is kept, also after a restart.
	h.save(r)
	h.record(r, filePlan, "")
	r.w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(r.w).Encode(plan)
}

// input reads the texts of which a file of the machine is rendered.
func (h *labHandler) input(r *labRequest, file string) (bootconfig.Input, error) {
	in := bootconfig.Input{Network: r.network, Machine: r.machine}
	for _, text := range []struct {
		blob  netbootapi.Blob
		value *string
		files []string
	}{
		{r.machine.IPXETemplate, &in.Texts.IPXE, []string{fileScript}},
		{r.machine.UserDataTemplate, &in.Texts.UserData, []string{filePlan, "user-data"}},
		{r.machine.NetworkConfigTemplate, &in.Texts.NetworkConfig, []string{filePlan, "network-config"}},
		{r.machine.SSHAuthorizedKeys, &in.Texts.SSHKeys, []string{fileScript, filePlan, "user-data", "vendor-data", "network-config"}},
	} {
		if !slices.Contains(text.files, file) {
			continue
		}
		var err error
		if *text.value, err = h.blobs.text(text.blob); err != nil {
			return in, err
		}
	}
	return in, nil
}

func (h *labHandler) cloudInit(name string) func(*labRequest) {
	return func(r *labRequest) {
		in, err := h.input(r, name)
		if err != nil {
			h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", err)
			return
		}
		text, err := h.renderer.CloudInit(r.r.Context(), name, in)
		h.state.counters.sawRendering("ci/"+name, err)
		if err != nil {
			h.fail(r, http.StatusUnprocessableEntity, "TemplateFailed", err)
			return
		}
		if name == "meta-data" {
			_ = h.state.update(r.machine, func(s *netbootapi.MachineState) error {
				if policy.IsInstalled(r.machine, *s) || r.machine.Boot == netbootapi.BootDisk {
					first(&s.CloudInitAt, h.state.now().UTC())
				}
				return nil
			})
		}
		h.record(r, "ci/"+name, fmt.Sprintf("%d bytes", len(text)))
		writeText(r.w, text)
	}
}
