// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/install"
	"github.com/pxelab/pxelab/internal/ipxe"
)

const (
	// maxReport bounds a posted body.
	maxReport = 64 << 10
	// confirmLimit is how long the answer to the installer's last report is
	// held back for the firmware boot order to be turned.
	confirmLimit = 8 * time.Second
	// slowest is the rate in bytes per second below which a download is given
	// up, beside a minute for all.
	slowest = 64 << 10
)

// labHandler is the HTTP server of the lab network.
type labHandler struct {
	keeper   *keeper
	blobs    *blobStore
	renderer renderer
	// persist writes the state to disk before an answer that must not be
	// forgotten.
	persist func()
	log     *slog.Logger
}

func (h *labHandler) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /program/{name}", h.program)
	mux.HandleFunc("GET "+alivePath, h.alive)
	for pattern, serve := range map[string]func(*labRequest){
		"GET boot.ipxe":  h.script,
		"GET ipxe-error": h.ipxeError,
		"GET plan":       h.plan,
		"GET kernel":     func(r *labRequest) { h.blob(r, "kernel", r.machine.Kernel) },
		"GET initrd":     func(r *labRequest) { h.blob(r, "initrd", r.machine.Initrd) },
		"GET overlay":    func(r *labRequest) { h.blob(r, "overlay", r.machine.Overlay) },
		"GET image":      func(r *labRequest) { h.blob(r, "image", r.machine.Image) },
		"POST progress":  h.progress,
		"POST phone-home": func(r *labRequest) {
			h.phoneHome(r)
		},
		"POST cloud-init":       h.cloudInitReport,
		"GET ci/meta-data":      h.cloudInit("meta-data"),
		"GET ci/user-data":      h.cloudInit("user-data"),
		"GET ci/vendor-data":    h.cloudInit("vendor-data"),
		"GET ci/network-config": h.cloudInit("network-config"),
	} {
		method, rest, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /m/{token}/"+rest, h.machineOnly(serve))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.unknownPath(w, r)
	})
	// ServeMux would redirect from a path with ".." or "//" to a clean one.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean(r.URL.Path) != r.URL.Path {
			h.unknownPath(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (h *labHandler) unknownPath(w http.ResponseWriter, r *http.Request) {
	h.keeper.refuse("HTTPUnknownPath")
	http.NotFound(w, r)
}

// labRequest is one request of a declared machine.
type labRequest struct {
	w       http.ResponseWriter
	r       *http.Request
	network *agent.Network
	machine *agent.Machine
	log     *slog.Logger
}

// machineOnly lets a machine's own requests through: both the token and the
// address must be its own. All others get the answer of a page that is not
// there.
func (h *labHandler) machineOnly(serve func(*labRequest)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		config := h.keeper.current()
		m := h.keeper.machineByToken(r.PathValue("token"))
		switch from := clientAddr(r); {
		case m == nil || config == nil:
			h.keeper.refuse("HTTPUnknownToken")
			http.NotFound(w, r)
			return
		case from != m.Address:
			h.keeper.refuse("HTTPForeignAddress")
			h.log.Warn("refused a request with a machine's token from another address", "machine", m.Name, "address", from)
			http.NotFound(w, r)
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(time.Minute))
		_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
		serve(&labRequest{w: w, r: r, network: &config.Network, machine: m, log: h.log.With("machine", m.Name)})
	}
}

func clientAddr(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap()
}

// fail answers with an error and keeps it as the machine's warning.
func (h *labHandler) fail(r *labRequest, status int, reason string, err error) {
	r.log.Warn("answered with an error", "path", r.r.URL.Path[strings.LastIndex(r.r.URL.Path, "/"):], "reason", reason, "error", err)
	_ = h.keeper.update(r.machine, func(s *agent.MachineState) error {
		warn(s, h.keeper.now().UTC(), reason, "%v", err)
		return nil
	})
	http.Error(r.w, err.Error(), status)
}

func (h *labHandler) decide(m *agent.Machine) Decision { return h.keeper.decide(Asker{Machine: m}) }

// program serves network boot programs to firmware that boots by HTTP, and the
// script that the program looks for beside itself.
func (h *labHandler) program(w http.ResponseWriter, r *http.Request) {
	m := h.keeper.machineByAddr(clientAddr(r))
	d := h.keeper.decide(Asker{Machine: m})
	if config := h.keeper.current(); d.Program != nil && config != nil && r.PathValue("name") == ipxe.AutoexecName {
		writeText(w, ipxe.Autoexec(m.MAC, h.renderer.scriptURL(&config.Network, m)))
		return
	}
	if d.Program == nil || d.Program.Name != r.PathValue("name") {
		h.keeper.refuse("HTTPProgramRefused")
		http.NotFound(w, r)
		return
	}
	sent, err := h.serveBlob(w, r, d.Program.Blob)
	if err == nil && sent.whole(d.Program.Blob.Size) {
		_ = h.keeper.update(m, func(s *agent.MachineState) error {
			first(&s.ProgramAt, h.keeper.now().UTC())
			return nil
		})
	}
}

func (h *labHandler) script(r *labRequest) {
	d := h.decide(r.machine)
	text, err := h.renderer.script(r.network, r.machine, d)
	if err != nil {
		h.fail(r, http.StatusInternalServerError, "IPXETemplateFailed", err)
		return
	}
	h.keeper.newBoot(r.machine)
	_ = h.keeper.update(r.machine, func(s *agent.MachineState) error {
		now := h.keeper.now().UTC()
		if d.Action == ActionDisk {
			s.DiskBootAt = now
		} else {
			first(&s.ScriptAt, now)
		}
		return nil
	})
	r.log.Info("answered a network boot", "action", d.Action, "reason", d.Reason)
	writeText(r.w, text)
}

func (h *labHandler) ipxeError(r *labRequest) {
	q := r.r.URL.Query()
	h.fail(r, http.StatusOK, "IPXEFailed", fmt.Errorf("iPXE: step %.40q failed with error %.60q (ipxe.org/err explains it)", q.Get("step"), q.Get("code")))
}

func (h *labHandler) plan(r *labRequest) {
	if d := h.decide(r.machine); d.Action != ActionInstall {
		h.fail(r, http.StatusConflict, "InstallRefused", fmt.Errorf("%s is not to be installed now: %s", r.machine.Name, d.Message))
		return
	}
	plan, err := h.renderer.plan(r.network, r.machine)
	if err != nil {
		h.fail(r, http.StatusUnprocessableEntity, "TemplateFailed", err)
		return
	}
	err = h.keeper.update(r.machine, func(s *agent.MachineState) error {
		s.ProfileDigest = r.machine.ProfileDigest
		return nil
	})
	if err != nil {
		h.fail(r, http.StatusConflict, "InstallRefused", err)
		return
	}
	r.w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(r.w).Encode(plan)
}

func (h *labHandler) cloudInit(name string) func(*labRequest) {
	return func(r *labRequest) {
		text, err := h.renderer.cloudInit(name, r.network, r.machine)
		if err != nil {
			h.fail(r, http.StatusUnprocessableEntity, "TemplateFailed", err)
			return
		}
		if name == "meta-data" {
			_ = h.keeper.update(r.machine, func(s *agent.MachineState) error {
				if installed(r.machine, *s) || r.machine.Boot == agent.BootDisk {
					first(&s.CloudInitAt, h.keeper.now().UTC())
				}
				return nil
			})
		}
		writeText(r.w, text)
	}
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, text)
}

// blob serves one of the machine's files and notes when it has it whole.
func (h *labHandler) blob(r *labRequest, file string, blob agent.Blob) {
	sent, err := h.serveBlob(r.w, r.r, blob)
	if err != nil {
		h.fail(r, http.StatusServiceUnavailable, "BlobUnavailable", fmt.Errorf("%s: %w", file, err))
		return
	}
	if r.r.Method != http.MethodGet || sent.end <= sent.start {
		return
	}
	if h.keeper.sent(r.machine, file, sent.start, sent.end) < blob.Size {
		return
	}
	initrdThere := h.keeper.sent(r.machine, "initrd", 0, 0) >= r.machine.Initrd.Size
	overlayThere := h.keeper.sent(r.machine, "overlay", 0, 0) >= r.machine.Overlay.Size
	_ = h.keeper.update(r.machine, func(s *agent.MachineState) error {
		now := h.keeper.now().UTC()
		if file == "kernel" {
			first(&s.KernelAt, now)
		}
		if initrdThere && overlayThere {
			first(&s.InitrdAt, now)
		}
		return nil
	})
}

// serveBlob answers with the blob or a range of it, by sendfile where the
// system has it, and tells what was sent.
func (h *labHandler) serveBlob(w http.ResponseWriter, r *http.Request, blob agent.Blob) (span, error) {
	f, err := h.blobs.open(blob.Digest)
	if err != nil {
		return span{}, err
	}
	defer f.Close()
	limit := time.Minute + time.Duration(blob.Size/slowest)*time.Second
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
	w.Header().Set("ETag", `"`+blob.Digest+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	counted := &countingWriter{ResponseWriter: w, between: lossWatch(r)}
	http.ServeContent(counted, r, "", time.Time{}, f)
	return counted.span(), nil
}

// connKey finds a request's connection in its context.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// lossWatch looks at the request's connection each time it is called, until
// there is no more to be done.
func lossWatch(r *http.Request) func() {
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	settled := !ok
	return func() {
		if !settled {
			settled = adaptToLoss(conn)
		}
	}
}

func (h *labHandler) progress(r *labRequest) {
	var p install.Progress
	if err := json.NewDecoder(http.MaxBytesReader(r.w, r.r.Body, maxReport)).Decode(&p); err != nil {
		h.fail(r, http.StatusBadRequest, "ReportRefused", fmt.Errorf("%w: %w", errBadReport, err))
		return
	}
	err := h.keeper.update(r.machine, func(s *agent.MachineState) error {
		return sawProgress(s, p, h.keeper.now().UTC())
	})
	if err != nil {
		h.refuseReport(r, err)
		return
	}
	if p.Stage == install.StageDone || p.Stage == install.StageFailed {
		h.persist()
		r.log.Info("installer ended", "stage", p.Stage, "message", clip(p.Message))
	}
	if p.Stage == install.StageDone {
		h.awaitConfirmation(r)
	}
	r.w.WriteHeader(http.StatusNoContent)
}

func (h *labHandler) refuseReport(r *labRequest, err error) {
	h.keeper.refuse("ReportRefused")
	status := http.StatusBadRequest
	if errors.Is(err, errOldAttempt) {
		status = http.StatusConflict
	}
	h.fail(r, status, "ReportRefused", err)
}

// awaitConfirmation blocks until the manager's configuration says that the
// machine's boot order is turned, or for the limit: the installer goes on
// either way, since a later network boot leads to the disk as well.
func (h *labHandler) awaitConfirmation(r *labRequest) {
	limit := time.NewTimer(confirmLimit)
	defer limit.Stop()
	for {
		_, changed := h.keeper.observe()
		m, _ := h.keeper.machine(r.machine.UID)
		if m == nil || m.Attempt != r.machine.Attempt || m.BootConfirmed == m.Attempt {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			r.log.Info("going on without the manager's word on the boot order")
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
	report := agent.PhoneHome{
		At:         h.keeper.now().UTC(),
		InstanceID: clip(r.r.PostForm.Get("instance_id")),
		Hostname:   clip(r.r.PostForm.Get("hostname")),
		HostKeys:   hostKeys(r.r.PostForm),
	}
	err := h.keeper.update(r.machine, func(s *agent.MachineState) error {
		return sawPhoneHome(s, r.machine, report)
	})
	if err != nil {
		h.refuseReport(r, err)
		return
	}
	h.persist()
	r.log.Info("machine phoned home", "hostKeys", len(report.HostKeys))
	r.w.WriteHeader(http.StatusOK)
}
