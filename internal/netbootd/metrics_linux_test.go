// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// metricsUntil fetches the metrics until ok returns "", or fails with what it returned
// last: a request is counted shortly after its answer.
func (h *harness) metricsUntil(ok func(netbootapi.Metrics) string) netbootapi.Metrics {
	h.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		m, err := h.client.Metrics(h.t.Context())
		if err != nil {
			h.t.Fatal(err)
		}
		missing := ok(m)
		if missing == "" {
			return m
		}
		if time.Now().After(limit) {
			h.t.Fatal(missing)
		}
	}
}

func requestsOf(m netbootapi.Metrics, services ...string) map[string]int64 {
	counts := map[string]int64{}
	for _, r := range m.Requests {
		for _, service := range services {
			if r.Service == service {
				counts[r.Service+" "+r.Kind+" "+r.Result] = r.Count
			}
		}
	}
	return counts
}

func TestMetricsCountWhatClientsDid(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	if _, err := h.tftp(machineAddress, "ipxe.efi"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.tftp(machineAddress, "no such file"); err == nil {
		t.Fatal("got a file that does not exist, want an error")
	}
	h.boot(machineConfig().MAC, iana.EFI_X86_64, true)
	var bytes int64
	for _, a := range []answer{
		h.get("boot.ipxe"), h.get("kernel"), h.get("kernel"), h.get("plan"), h.get("ci/meta-data"),
		h.do("127.0.0.77", http.MethodGet, h.base()+"kernel", "", nil),
		h.do(machineAddress, http.MethodGet, "http://"+h.service(serviceHTTP)+"/passwords", "", nil),
		h.do(machineAddress, http.MethodGet, h.base()+"image", "", http.Header{"Range": {"bytes=999000-"}}),
		h.post("progress", "nonsense"),
	} {
		bytes += int64(len(a.body))
	}

	want := map[string]int64{
		"tftp program OK": 1, "tftp other Abort": 1,
		"http boot.ipxe OK": 1, "http kernel OK": 2, "http kernel Refused": 1, "http plan OK": 1, "http ci/meta-data OK": 1,
		"http image OK": 1, "http progress Refused": 1, "http other Refused": 1,
	}
	m := h.metricsUntil(func(m netbootapi.Metrics) string {
		if m.Leases != 1 {
			return fmt.Sprintf("got %d leases, want 1", m.Leases)
		}
		return cmp.Diff(want, requestsOf(m, serviceTFTP, serviceHTTP))
	})
	if diff := cmp.Diff(map[string]int64{serviceHTTP: bytes, serviceTFTP: int64(len(contents["program"]))}, m.SentBytes); diff != "" {
		t.Errorf("bytes (-want +got):\n%s", diff)
	}
	// A client may have sent its request again.
	for _, kind := range []string{"dhcp Firmware Offer", "dhcp Firmware Ack", "dhcp iPXE Offer", "dhcp iPXE Ack"} {
		if requestsOf(m, serviceDHCP)[kind] < 1 {
			t.Errorf("got %v, want at least one %s", m.Requests, kind)
		}
	}
	if diff := cmp.Diff(map[string]int64{"boot.ipxe": 1, "plan": 1, "ci/meta-data": 1}, m.Renderings); diff != "" {
		t.Errorf("renderings (-want +got):\n%s", diff)
	}
	for _, kind := range []string{"TFTPUnknownFile", "HTTPForeignAddress", "HTTPUnknownPath"} {
		if m.Refused[kind] != 1 {
			t.Errorf("got %v refused requests, want one %s", m.Refused, kind)
		}
	}
	stored := int64(0)
	for _, content := range contents {
		stored += int64(len(content))
	}
	if m.Machines != 1 || m.Leases != 1 || m.Blobs < int64(len(contents)) || m.BlobBytes < stored || m.FreeBytes <= 0 {
		t.Errorf("got %+v, want 1 machine, 1 lease, at least %d blobs with %d bytes, and free space", m, len(contents), stored)
	}
	if !m.StartedAt.Equal(h.server.state.startedAt()) {
		t.Errorf("got a start at %s, want %s", m.StartedAt, h.server.state.startedAt())
	}
}

func TestFailedRenderingsAreCounted(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].UserDataTemplate = textOf("#cloud-config\nhostname: {{ .NoSuchField }}\n")
	h.up(config)
	h.get("ci/user-data")
	h.metricsUntil(func(m netbootapi.Metrics) string {
		return cmp.Diff(map[string]int64{"ci/user-data": 1}, m.FailedRenderings)
	})
	h.metricsUntil(func(m netbootapi.Metrics) string {
		return cmp.Diff(map[string]int64{"http ci/user-data Refused": 1}, requestsOf(m, serviceHTTP))
	})
}

// The counters of a DHCP server survive a change of the network, which replaces it.
func TestRefusedDHCPIsCountedAcrossNetworks(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	// atLeast sends what is not DHCP until netbootd has refused as much.
	atLeast := func(least int64) int64 {
		m := h.metricsUntil(func(m netbootapi.Metrics) string {
			if m.Refused["DHCPMalformed"] >= least {
				return ""
			}
			h.mu.Lock()
			to := h.dhcp
			h.mu.Unlock()
			conn, err := net.Dial("udp4", to.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("not DHCP")) // fails while the server is being replaced
			return "the malformed request is not counted"
		})
		return m.Refused["DHCPMalformed"]
	}
	before := atLeast(1)
	config.Network.LeaseSeconds = 700
	h.push(config)
	m := h.metricsUntil(func(netbootapi.Metrics) string {
		h.server.mu.Lock()
		defer h.server.mu.Unlock()
		if l := h.server.lab; l == nil || l.network.Load().LeaseSeconds != 700 {
			return "the services are not replaced"
		}
		return ""
	})
	if m.Refused["DHCPMalformed"] < before {
		t.Errorf("got %d refused requests after a change of the network, want at least %d", m.Refused["DHCPMalformed"], before)
	}
	atLeast(before + 1)
}
