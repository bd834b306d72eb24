// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Names of rendered files, in events and for input.
const (
	fileScript = "boot.ipxe"
	filePlan   = "plan"
	// fileImage is not rendered, but is sent as a whole before an installation can be done.
	fileImage = "image"
)

func (h *labHandler) script(r *labRequest) {
	d := h.decide(r.machine)
	text, ok := h.renderScript(r, d)
	if !ok {
		return
	}
	h.bootedWith(r.machine, d)
	h.log.Debug("answered a network boot", "machine", r.machine.Name, "action", d.Action, "reason", d.Reason)
	writeText(r.w, text)
}

// bootedWith records that a machine is sent the script of a decision.
func (h *labHandler) bootedWith(m *netbootapi.Machine, d policy.Decision) {
	h.state.newBoot(m)
	_ = h.state.update(m, func(s *netbootapi.MachineState) error {
		now := h.state.now().UTC()
		if d.Action == policy.ActionDisk {
			s.DiskBootAt = now
		} else {
			first(&s.ScriptAt, now)
		}
		return nil
	})
	h.state.record(m, netbootapi.Event{
		Kind: netbootapi.EventHTTP, Name: fileScript, Detail: fmt.Sprintf("%s: %s", d.Action, d.Message),
	})
}

// diskScript serves a declared machine that must not be installed, by its address alone,
// the script that continues with its disk. The script has no secret, and neither has its
// URL, which such a machine is given by DHCP.
func (h *labHandler) diskScript(w http.ResponseWriter, r *http.Request) {
	m := h.state.machineByAddr(clientAddr(r))
	if m == nil {
		h.state.refuse("HTTPUnknownClient")
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodHead {
		return // nothing is sent
	}
	h.state.counters.sawRendering(fileScript, nil)
	if d := h.decide(m); d.Action == policy.ActionDisk {
		h.bootedWith(m, d)
	}
	writeText(w, ipxe.Disk(m.Name))
}

// renderScript is render for the script of a decision.
func (h *labHandler) renderScript(r *labRequest, d policy.Decision) (text string, ok bool) {
	script := func(ctx context.Context, in bootconfig.Input) (string, error) {
		return h.renderer.Script(ctx, in, d)
	}
	failed := failure{http.StatusInternalServerError, "IPXETemplateFailed"}
	if d.Action == policy.ActionInstall && r.machine.IPXETemplate != (netbootapi.Blob{}) {
		return render(h, r, fileScript, failed, script)
	}
	// Other scripts are small, take no time and need no text.
	text, err := script(r.r.Context(), bootconfig.Input{Network: r.network, Machine: r.machine})
	h.state.counters.sawRendering(fileScript, err)
	if err != nil {
		h.fail(r, failed.status, failed.reason, err)
	}
	return text, err == nil
}

func (h *labHandler) plan(r *labRequest) {
	if d := h.decide(r.machine); d.Action != policy.ActionInstall {
		h.fail(r, http.StatusConflict, "InstallRefused", fmt.Errorf("%s must not be installed now: %s", r.machine.Name, d.Message))
		return
	}
	plan, ok := render(h, r, filePlan, templateFailed, h.renderer.InstallPlan)
	if !ok {
		return
	}
	if err := h.state.fetchedPlan(r.machine, r.network); err != nil {
		h.fail(r, http.StatusConflict, "InstallRefused", err)
		return
	}
	// From now on the content is kept, also after a restart.
	h.persist(r.machine.UID)
	h.record(r, filePlan, "")
	r.w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(r.w).Encode(plan)
}

// failure is the answer to a request for a file that cannot be rendered.
type failure struct {
	status int
	reason string
}

var templateFailed = failure{http.StatusUnprocessableEntity, "TemplateFailed"}

// renderFunc renders a file of a machine.
type renderFunc[V any] func(context.Context, bootconfig.Input) (V, error)

// render renders a file of a machine when the request may. It reports false if it has
// answered the request with an error.
func render[V any](h *labHandler, r *labRequest, file string, failed failure, from renderFunc[V]) (v V, ok bool) {
	var lost, err error
	rendered := h.render(r, func() {
		var in bootconfig.Input
		if in, lost = h.input(r, file); lost == nil {
			v, err = from(r.r.Context(), in)
			h.state.counters.sawRendering(file, err)
		}
	})
	switch {
	case !rendered:
		return v, false
	case lost != nil:
		h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", lost)
		return v, false
	case err != nil:
		h.fail(r, failed.status, failed.reason, err)
		return v, false
	}
	return v, true
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
		{r.machine.UserDataTemplate, &in.Texts.UserData, []string{filePlan, "ci/user-data"}},
		{r.machine.NetworkConfigTemplate, &in.Texts.NetworkConfig, []string{filePlan, "ci/network-config"}},
		{r.machine.SSHAuthorizedKeys, &in.Texts.SSHKeys, []string{fileScript, filePlan, "ci/user-data", "ci/vendor-data", "ci/network-config"}},
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
		text, ok := render(h, r, "ci/"+name, templateFailed, func(ctx context.Context, in bootconfig.Input) (string, error) {
			return h.renderer.CloudInit(ctx, name, in)
		})
		if !ok {
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
