// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/ipxe"
)

const fuzzToken, fuzzSecret = "token-0123456789abcdef", "nobody-else-may-read-this"

func fuzzHandler(f *testing.F) http.Handler {
	blobs, err := openBlobs(f.TempDir(), func(map[string]bool) {})
	if err != nil {
		f.Fatal(err)
	}
	k := newKeeper("fuzz", time.Now)
	config := policyConfig(agent.BootInstall)
	config.Network = agent.Network{Address: netip.MustParsePrefix("10.0.0.1/24"), LeaseSeconds: 60}
	m := &config.Machines[0]
	m.MAC, m.Address, m.Token = "52:54:00:00:00:01", netip.MustParseAddr("10.0.0.11"), fuzzToken
	m.UserDataTemplate, m.Parameters = "#cloud-config\nx: {{ .Parameters.secret }}\n", map[string]string{"secret": fuzzSecret}
	k.setConfig(config)
	h := &labHandler{keeper: k, blobs: blobs, renderer: renderer{port: 80}, persist: func() {}, log: slog.New(slog.DiscardHandler)}
	return h.mux()
}

// FuzzRequest: whatever is asked from another address, or without the token,
// nothing of the machine's comes back.
func FuzzRequest(f *testing.F) {
	h := fuzzHandler(f)
	for _, path := range []string{
		"/", "/m/" + fuzzToken + "/ci/user-data", "/m/x/ci/user-data", "/m/" + fuzzToken + "/plan", "/m/" + fuzzToken + "/progress",
		"/m/" + fuzzToken + "/../ci/user-data", "/program/ipxe.efi", "/program/autoexec.ipxe", "/alive", "//m//" + fuzzToken + "/ci/user-data",
	} {
		f.Add("GET", path, "", false)
		f.Add("POST", path, `{"attempt":"1","stage":"Write","bytesWritten":1}`, true)
	}
	f.Add("POST", "/m/"+fuzzToken+"/phone-home", "pub_key_ed25519=ssh-ed25519+AAAA&instance_id=i1", true)
	f.Fuzz(func(t *testing.T, method, path, body string, own bool) {
		u, err := url.ParseRequestURI(path)
		if err != nil || strings.ContainsAny(method, " \r\n\t") || method == "" {
			return
		}
		r := &http.Request{
			Method: method, URL: u, Host: "x", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: path,
			Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: http.NoBody, RemoteAddr: "10.0.0.12:1234",
		}
		if own {
			r.RemoteAddr = "10.0.0.11:1234"
		}
		if body != "" {
			r.Body = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)).Body
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(t.Context()))
		entitled := own && strings.Contains(u.Path, fuzzToken)
		if strings.Contains(w.Body.String(), fuzzSecret) && !entitled {
			t.Errorf("%s %s told the secret: %s", method, path, w.Body)
		}
		if w.Code == http.StatusOK && !own {
			t.Errorf("%s %s from a stranger: %d", method, path, w.Code)
		}
	})
}

// FuzzScript: whatever a profile's iPXE template, a name or arguments hold, the
// script is refused or a script.
func FuzzScript(f *testing.F) {
	f.Add("", "quiet", "node")
	f.Add("#!ipxe\nkernel {{ .KernelURL }} {{ .CommandLine }}\nboot\n", "console=ttyS0", "a")
	f.Add("{{ range $i := .DNS }}{{ end }}", "a || reboot", "b\nreboot")
	f.Add("#!ipxe\n{{ template \"x\" }}", "", "${net0/mac}")
	n := &agent.Network{Address: netip.MustParsePrefix("10.0.0.1/24"), NAT: true, MTU: 1500}
	f.Fuzz(func(t *testing.T, template, arg, name string) {
		m := &agent.Machine{
			Name: name, MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"), Architecture: "x86_64",
			Token: fuzzToken, IPXETemplate: template, KernelArgs: []string{arg},
		}
		for _, action := range []Action{ActionInstall, ActionDisk, ActionWait} {
			out, err := renderer{port: 80}.script(n, m, Decision{Action: action, Message: name})
			if err != nil {
				continue // refused
			}
			if err := ipxe.CheckScript(out); err != nil {
				t.Errorf("%s: %v\n%s", action, err, out)
			}
		}
	})
}
