// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/registry"
)

const (
	// maxReport bounds a posted body, in bytes.
	maxReport = 64 << 10
	// confirmLimit is how long the answer to the installer's last report waits
	// for the change of the boot order.
	confirmLimit = 8 * time.Second
	// requestLimit is how long a request that is not a download may take, once it does not
	// wait any more.
	requestLimit = time.Minute
	// slowest is the lowest rate of a download in bytes per second; a minute
	// is added for all.
	slowest = 64 << 10
)

// labHandler is the HTTP server of the lab network.
type labHandler struct {
	state    *stateStore
	blobs    *blobStore
	renderer bootconfig.Renderer
	// renderings limits what is rendered at a time.
	renderings *renderings
	// persist saves the state of a machine before an answer that promises it is
	// recorded.
	persist func(uid string)
	// log has at level Info what an operator must see. The journal of an emulated server
	// takes milliseconds for a line, so what each machine does is at level Debug: it is in
	// the state and the events.
	log *slog.Logger
}

func (h *labHandler) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /program/{name}", h.program)
	mux.HandleFunc("GET "+alivePath, h.alive)
	mux.HandleFunc("GET /"+fileScript, h.diskScript)
	for pattern, to := range h.routes() {
		method, rest, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /m/{token}/"+rest, h.machineOnly(to))
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

// single ends the connection with the answer: its client sends no other request, and
// waiting for it to close the connection costs as much as a small request.
func single(serve func(*labRequest)) func(*labRequest) {
	return func(r *labRequest) {
		r.w.Header().Set("Connection", "close")
		serve(r)
	}
}

// route is how a request with a machine's secret is served.
type route struct {
	// secret is which of the machine's secrets the request needs.
	secret registry.Secret
	serve  func(*labRequest)
	// ended routes are served after the secret's end as well, because a request may be late
	// or be sent again. They reveal nothing that is secret.
	ended bool
	// file routes answer HEAD with the size of the file. Other answers are rendered, and
	// having been sent one has an effect, so that HEAD is answered before they are.
	file bool
}

// routes returns the routes below a machine's base URLs.
func (h *labHandler) routes() map[string]route {
	boot := func(serve func(*labRequest)) route { return route{secret: registry.SecretBoot, serve: serve} }
	seed := func(serve func(*labRequest)) route { return route{secret: registry.SecretSeed, serve: serve} }
	file := func(serve func(*labRequest)) route {
		return route{secret: registry.SecretBoot, serve: serve, file: true}
	}
	report := func(to route) route {
		to.ended = true
		return to
	}
	return map[string]route{
		// After the installation it is the script that continues with the disk.
		"GET " + fileScript: report(boot(h.inTurn(h.script))),
		"GET ipxe-error":    boot(h.ipxeError),
		"GET plan":          boot(h.inTurn(h.plan)),
		"GET kernel":        file(func(r *labRequest) { h.blob(r, "kernel", r.machine.Kernel) }),
		"GET initrd":        file(func(r *labRequest) { h.blob(r, "initrd", r.machine.Initrd) }),
		"GET overlay":       file(func(r *labRequest) { h.blob(r, "overlay", r.machine.Overlay) }),
		"GET image":         file(func(r *labRequest) { h.blob(r, fileImage, r.machine.Image) }),
		"POST progress":     report(boot(h.progress)),
		// cloud-init opens a connection for each request.
		"POST phone-home":       report(seed(single(h.phoneHome))),
		"POST cloud-init":       report(seed(single(h.cloudInitReport))),
		"GET ci/meta-data":      seed(single(h.inTurn(h.cloudInit("meta-data")))),
		"GET ci/user-data":      seed(single(h.inTurn(h.cloudInit("user-data")))),
		"GET ci/vendor-data":    seed(single(h.inTurn(h.cloudInit("vendor-data")))),
		"GET ci/network-config": seed(single(h.inTurn(h.cloudInit("network-config")))),
	}
}

func (h *labHandler) unknownPath(w http.ResponseWriter, r *http.Request) {
	h.state.refuse("HTTPUnknownPath")
	http.NotFound(w, r)
}

// labRequest is one request of a declared machine.
type labRequest struct {
	w       http.ResponseWriter
	r       *http.Request
	network *netbootapi.Network
	machine *netbootapi.Machine
	// waiting ends when the request may not wait any longer to be rendered; see inTurn.
	waiting context.Context
}

// machineOnly accepts requests whose token and client address belong to the same
// machine, if the token is the route's secret and in force. All others get the same 404 as a
// missing page.
func (h *labHandler) machineOnly(to route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		config := h.state.current()
		m, secret, inForce := h.state.machineByToken(r.PathValue("token"))
		switch from := clientAddr(r); {
		case m == nil || config == nil || secret != to.secret:
			h.state.refuse("HTTPUnknownToken")
			http.NotFound(w, r)
			return
		case from != m.Address:
			h.state.refuse("HTTPForeignAddress")
			h.log.Warn("refused a request with a machine's token from another address", "machine", m.Name, "address", from)
			http.NotFound(w, r)
			return
		case !inForce && !to.ended:
			h.state.refuse("HTTPEndedToken")
			http.NotFound(w, r)
			return
		}
		if r.Method == http.MethodHead && !to.file {
			return
		}
		request := &labRequest{w: w, r: r, network: &config.Network, machine: m}
		request.limit(requestLimit)
		to.serve(request)
	}
}

func clientAddr(r *http.Request) netip.Addr {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return from.Addr().Unmap()
}

// fail responds with an error and records it as a warning of the machine.
func (h *labHandler) fail(r *labRequest, status int, reason string, err error) {
	file := path.Base(r.r.URL.Path)
	problem := redact(r.machine, err.Error())
	h.log.Warn("answered with an error", "machine", r.machine.Name, "path", "/"+file, "reason", reason, "error", problem)
	h.record(r, file, reason+": "+problem)
	_ = h.state.update(r.machine, func(s *netbootapi.MachineState) error {
		warn(s, h.state.now().UTC(), reason, "%s", problem)
		return nil
	})
	http.Error(r.w, problem, status)
}

func (h *labHandler) decide(m *netbootapi.Machine) policy.Decision {
	return h.state.decide(policy.Client{Machine: m})
}

// program serves network boot programs to firmware that boots by HTTP, and
// autoexec.ipxe, which iPXE fetches from the same directory.
func (h *labHandler) program(w http.ResponseWriter, r *http.Request) {
	m := h.state.machineByAddr(clientAddr(r))
	d := h.state.decide(policy.Client{Machine: m})
	if config := h.state.current(); d.Program != nil && config != nil && r.PathValue("name") == ipxe.AutoexecName {
		h.state.counters.sawRendering(ipxe.AutoexecName, nil)
		writeText(w, ipxe.Autoexec(m.MAC, h.renderer.ScriptURL(&config.Network, d)))
		return
	}
	if d.Program == nil || d.Program.Name != r.PathValue("name") {
		h.state.refuse("HTTPProgramRefused")
		http.NotFound(w, r)
		return
	}
	sent, err := h.serveBlob(w, r, d.Program.Blob, func(span) {})
	h.state.record(m, netbootapi.Event{Kind: netbootapi.EventHTTP, Name: d.Program.Name, Detail: sent.describe(d.Program.Blob.Size)})
	if err == nil && sent.whole(d.Program.Blob.Size) {
		_ = h.state.update(m, func(s *netbootapi.MachineState) error {
			first(&s.ProgramAt, h.state.now().UTC())
			return nil
		})
	}
}

func (h *labHandler) ipxeError(r *labRequest) {
	q := r.r.URL.Query()
	err := fmt.Errorf("iPXE: step %.40q failed with error %.60q; see ipxe.org/err", q.Get("step"), q.Get("code"))
	h.fail(r, http.StatusOK, "IPXEFailed", err)
}

// record adds an event of the machine that sent a request.
func (h *labHandler) record(r *labRequest, name, detail string) {
	h.state.record(r.machine, netbootapi.Event{Kind: netbootapi.EventHTTP, Name: name, Detail: detail})
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, text)
}
