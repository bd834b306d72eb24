// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

const fuzzToken, fuzzSeed, fuzzSecret = "token-0123456789abcdef", "seed-0123456789abcdefg", "secret-of-another-machine"

// fuzzHandler returns the handler of a lab with one machine, whose user-data has the
// secret.
func fuzzHandler(f testing.TB) *labHandler {
	f.Helper()
	k := newStateStore("fuzz", time.Now)
	blobs, err := openBlobs(f.TempDir(), time.Hour, k)
	if err != nil {
		f.Fatal(err)
	}
	blob := func(c string) netbootapi.Blob {
		return netbootapi.Blob{Digest: "sha256:" + strings.Repeat(c, 64), Size: 1}
	}
	template := "#cloud-config\nx: {{ .Parameters.secret }}\n"
	k.setConfig(&labSetup{
		ServerConfig: netbootapi.ServerConfig{
			Network: netbootapi.Network{
				MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("10.0.0.1/24"), LeaseSeconds: 60,
				RangeStart: netip.MustParseAddr("10.0.0.100"), RangeEnd: netip.MustParseAddr("10.0.0.200"),
			},
			Programs: []netbootapi.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blob("0")}},
			TextKey:  textKey,
		},
		Machines: []netbootapi.Machine{{
			UID: "u",
			Content: netbootapi.Content{
				Name: "a", Hostname: "a", Architecture: "x86_64", ImagePin: blob("4").Digest,
				Kernel: blob("1"), Initrd: blob("2"), Overlay: blob("3"), Image: blob("4"),
				MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.11"),
				UserDataTemplate: textOf(template), Parameters: map[string]string{"secret": fuzzSecret},
			},
			Control: netbootapi.Control{Boot: netbootapi.BootInstall, Attempt: "1", InstanceID: "i1", Token: fuzzToken, SeedToken: fuzzSeed},
		}},
	})
	if err := blobs.write(f.Context(), textOf(template), 0, strings.NewReader(template)); err != nil {
		f.Fatal(err)
	}
	saved := func(string) {}
	return &labHandler{
		state: k, blobs: blobs, renderer: bootconfig.Renderer{Port: 80}, renderings: newRenderings(),
		persist: saved, log: slog.New(slog.DiscardHandler),
	}
}

// FuzzRequest checks that a request from another address or without the token
// never returns data of the machine.
func FuzzRequest(f *testing.F) {
	h := fuzzHandler(f).mux()
	for _, path := range []string{
		"/", "/m/" + fuzzSeed + "/ci/user-data", "/m/x/ci/user-data", "/m/" + fuzzToken + "/plan", "/m/" + fuzzToken + "/progress",
		"/m/" + fuzzSeed + "/../ci/user-data", "/program/ipxe.efi", "/program/autoexec.ipxe", "/alive", "//m//" + fuzzSeed + "/ci/user-data",
	} {
		f.Add("GET", path, "", false)
		f.Add("POST", path, `{"attempt":"1","stage":"Write","bytesWritten":1}`, true)
	}
	f.Add("POST", "/m/"+fuzzSeed+"/phone-home", "pub_key_ed25519=ssh-ed25519+AAAA&instance_id=i1", true)
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
		entitled := own && strings.Contains(u.Path, fuzzSeed)
		if strings.Contains(w.Body.String(), fuzzSecret) && !entitled {
			t.Errorf("%s %s: got the secret, want a response without it: %s", method, path, w.Body)
		}
		if w.Code == http.StatusOK && !own {
			t.Errorf("%s %s from another address: got status %d, want an error", method, path, w.Code)
		}
	})
}
