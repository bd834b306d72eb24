// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestUnknownClientsGetNothingToBoot(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	if file := h.boot("52:54:00:99:99:99", iana.EFI_X86_64, false); file != "" {
		t.Errorf("got boot file %q, want none", file)
	}
	state := h.await("the unknown client", func(s observed) bool { return len(s.Unknown) == 1 && s.Unknown[0].Address.IsValid() })
	u := state.Unknown[0]
	if u.MAC != "52:54:00:99:99:99" {
		t.Errorf("unknown client: got MAC %s, want 52:54:00:99:99:99", u.MAC)
	}
	if u.Architecture != "x86_64" {
		t.Errorf("unknown client: got architecture %q, want x86_64", u.Architecture)
	}
	if u.LastSeen.IsZero() {
		t.Error("unknown client: got no time at which it was last seen, want one")
	}
	if _, err := h.tftp("127.1.0.1", "ipxe.efi"); err == nil {
		t.Error("program by TFTP for an unknown client: got no error, want one")
	}
	program := "http://" + h.service(serviceHTTP) + "/program/ipxe.efi"
	if got := h.do("127.1.0.1", http.MethodGet, program, "", nil); got.status != http.StatusNotFound {
		t.Errorf("program by HTTP for an unknown client: got status %d, want 404", got.status)
	}
	// Once declared, the client is removed from the list.
	config := labConfig()
	other := machineConfig()
	other.UID = "uid-2"
	other.Token = "other-token-01234567890"
	other.SeedToken = "other-seed-012345678901"
	other.MAC = "52:54:00:99:99:99"
	other.Address = netip.MustParseAddr("127.0.0.12")
	config.Machines = append(config.Machines, other)
	h.push(config)
	h.await("an empty list", func(s observed) bool { return len(s.Unknown) == 0 })
}

func TestAnotherArchitectureGetsNothingToBoot(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	if file := h.boot(machineConfig().MAC, iana.EFI_ARM64, false); file != "" {
		t.Errorf("got boot file %q, want none", file)
	}
	m := h.awaitMachine("a warning", func(m netbootapi.MachineState) bool { return len(m.Warnings) > 0 })
	w := m.Warnings[0]
	if w.Reason != policy.ReasonArchitecture {
		t.Errorf("warning: got reason %s, want %s", w.Reason, policy.ReasonArchitecture)
	}
	if !strings.Contains(w.Message, "aarch64") {
		t.Errorf("warning: got message %q, want it to contain \"aarch64\"", w.Message)
	}
}

func TestForeignRequestsAreNotFound(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	host := "http://" + h.service(serviceHTTP)
	for name, c := range map[string]struct{ address, url, reason string }{
		"another machine's token":    {"127.0.0.12", h.seedBase() + "ci/user-data", "HTTPForeignAddress"},
		"the boot secret for a seed": {machineAddress, h.base() + "ci/user-data", "HTTPUnknownToken"},
		"the seed secret for a plan": {machineAddress, h.seedBase() + "plan", "HTTPUnknownToken"},
		"a guessed token":            {machineAddress, host + "/m/secret-token-9999999999/ci/user-data", "HTTPUnknownToken"},
		"unknown path":               {machineAddress, host + "/etc/passwd", "HTTPUnknownPath"},
		"unknown path of a machine":  {machineAddress, h.base() + "../../server.json", "HTTPUnknownPath"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.do(c.address, http.MethodGet, c.url, "", nil); got.status != http.StatusNotFound {
				t.Errorf("got %d %s, want 404", got.status, got.body)
			}
			h.await("the refusal", func(s observed) bool { return s.Refused[c.reason] > 0 })
		})
	}
}

func TestBadReportsAreRefused(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	for name, c := range map[string]struct {
		path, body string
		status     int
	}{
		"invalid JSON":                   {"progress", "{", http.StatusBadRequest},
		"no stage":                       {"progress", report("a1", "", 1), http.StatusBadRequest},
		"negative bytes":                 {"progress", report("a1", installerapi.StageWrite, -1), http.StatusBadRequest},
		"large":                          {"progress", `{"message":"` + strings.Repeat("x", maxReport) + `"}`, http.StatusBadRequest},
		"another attempt":                {"progress", report("a0", installerapi.StageWrite, 1), http.StatusConflict},
		"event with unknown type":        {"cloud-init", `{"name": "modules-final", "event_type": "x"}`, http.StatusBadRequest},
		"event with invalid name":        {"cloud-init", `{"name": "a b", "event_type": "start"}`, http.StatusBadRequest},
		"event with invalid JSON":        {"cloud-init", "name=x", http.StatusBadRequest},
		"done before the plan":           {"progress", report("a1", installerapi.StageDone, 1_000_000), http.StatusConflict},
		"phone-home before installation": {"phone-home", phoneHomeForm("target-1-a1"), http.StatusConflict},
		"phone-home of another instance": {"phone-home", phoneHomeForm("target-1-a0"), http.StatusConflict},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.post(c.path, c.body); got.status != c.status {
				t.Errorf("got %d %s, want %d", got.status, got.body, c.status)
			}
		})
	}
	m := h.awaitMachine("the warnings", func(m netbootapi.MachineState) bool { return len(m.Warnings) >= 4 })
	if m.Install != nil {
		t.Errorf("after refused reports: got installation %+v, want none", m.Install)
	}
	if m.PhoneHome != nil {
		t.Errorf("after refused reports: got phone-home %+v, want none", m.PhoneHome)
	}
	if m.CloudInit != nil {
		t.Errorf("after refused reports: got cloud-init %+v, want none", m.CloudInit)
	}
}

func TestFailingTemplatesPreventInstallation(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].UserDataTemplate = textOf("#cloud-config\nx: {{ .Parameters.zone }}\n")
	config.Machines[0].IPXETemplate = textOf("echo no header\n")
	h.up(config)
	if got := h.get("plan"); got.status != http.StatusUnprocessableEntity || !strings.Contains(got.body, `"zone"`) {
		t.Errorf("plan with a failing template: got %d %s, want 422 and the name \"zone\"", got.status, got.body)
	}
	if got := h.get("boot.ipxe"); got.status != http.StatusInternalServerError {
		t.Errorf("script with a failing template: got %d %s, want 500", got.status, got.body)
	}
	h.awaitMachine("both warnings", func(m netbootapi.MachineState) bool { return len(m.Warnings) == 2 })
	config.Machines[0].UserDataTemplate = netbootapi.Blob{}
	config.Machines[0].IPXETemplate = textOf("#!ipxe\nkernel {{ .KernelURL }} {{ .CommandLine }}\ninitrd {{ .InitrdURL }}\nboot # {{ .Name }}\n")
	h.push(config)
	if got := h.get("boot.ipxe"); got.status != http.StatusOK || !strings.Contains(got.body, "kernel "+h.base()+"kernel initrd=") {
		t.Errorf("script of a valid template: got %d %s, want 200 and the kernel's URL", got.status, got.body)
	}
}

func TestInvalidConfigChangesNothing(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	before, _ := h.server.state.observe()
	bad := labConfig()
	bad.Network.RangeEnd = netip.MustParseAddr("10.0.0.1")
	if err := h.client.PutServer(t.Context(), bad.Encode()); !errors.Is(err, netbootapi.ErrInvalid) {
		t.Errorf("PutServer of an invalid configuration: got error %v, want %v", err, netbootapi.ErrInvalid)
	}
	wrong := machineConfig()
	wrong.Address = labAddress.Addr()
	if err := h.client.PutMachine(t.Context(), wrong.UID, entryOf(&wrong)); !errors.Is(err, netbootapi.ErrInvalid) {
		t.Errorf("PutMachine of an invalid entry: got error %v, want %v", err, netbootapi.ErrInvalid)
	}
	after, _ := h.server.state.observe()
	if after.Server != before.Server {
		t.Errorf("after an invalid configuration: got configuration %s in force, want %s", after.Server, before.Server)
	}
	if got, want := after.Machines["uid-1"], before.Machines["uid-1"]; got.Content != want.Content || got.Control != want.Control || got.Problem != "" {
		t.Errorf("after an invalid entry: got %+v in force, want %+v", got, want)
	}
}

func TestProxyReachesDeclaredMachinesOnly(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.mu.Lock()
	h.ssh = sshServer
	h.mu.Unlock()
	for _, address := range []string{"127.0.0.12:22", "10.0.0.1:22", "127.0.0.1:22"} {
		if _, err := h.client.DialTarget(t.Context(), netip.MustParseAddrPort(address)); !errors.Is(err, netbootapi.ErrNoTarget) {
			t.Errorf("%s: got error %v, want %v", address, err, netbootapi.ErrNoTarget)
		}
	}
	conn, err := h.client.DialTarget(t.Context(), netip.MustParseAddrPort(machineAddress+":22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 7)
	if _, err := conn.Read(buf); err != nil || string(buf) != "welcome" {
		t.Errorf("got %q, error %v; want \"welcome\"", buf, err)
	}
}

func TestUploadsResumeAfterRestart(t *testing.T) {
	h := newHarness(t)
	if err := h.client.PutServer(t.Context(), func() []byte {
		c := labConfig()
		c.Programs = nil
		return c.Encode()
	}()); err != nil {
		t.Fatal(err)
	}
	image := contents["image"]
	broken := struct {
		*bytes.Reader
	}{bytes.NewReader(image[:700_000])}
	if err := h.client.UploadBlob(t.Context(), blobOf("image"), broken, nil); err == nil {
		t.Fatal("upload whose source ends early: got no error, want one")
	}
	// The server stores what it received after the client has failed.
	for limit := time.After(patience); ; {
		if here, _, err := h.server.blobs.offset(blobOf("image")); err != nil || here > 0 {
			break
		}
		select {
		case <-limit:
			t.Fatalf("after %s: got no stored content, want a part of the image", patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
	h.stop()
	h.start()
	h.await("the configuration", func(s observed) bool { return s.Server != "" })
	var from int64 = -1
	err := h.client.UploadBlob(t.Context(), blobOf("image"), bytes.NewReader(image), func(n int64) {
		if from < 0 {
			from = n
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if from == 0 {
		t.Error("upload after a restart: got start at 0, want it to resume")
	}
	// Content that does not match its digest leaves nothing behind.
	wrong := append([]byte("x"), contents["kernel"][1:]...)
	if err := h.client.UploadBlob(t.Context(), blobOf("kernel"), bytes.NewReader(wrong), nil); !errors.Is(err, netbootapi.ErrDigest) {
		t.Errorf("upload of other content: got error %v, want %v", err, netbootapi.ErrDigest)
	}
	if err := h.client.UploadBlob(t.Context(), blobOf("kernel"), bytes.NewReader(contents["kernel"]), nil); err != nil {
		t.Error(err)
	}
}

func TestFailedServicesAreRestarted(t *testing.T) {
	h := newHarness(t)
	busy, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	h.options.HTTPPort = uint16(busy.Addr().(*net.TCPAddr).Port)
	h.start()
	h.push(labConfig())
	h.await("the service's error", func(s observed) bool {
		return strings.Contains(s.Services[serviceHTTP].Error, "address already in use")
	})
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	h.awaitServices()
}

func TestNATFollowsTheConfig(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	if _, removed := h.nat.state(); removed != 0 {
		t.Errorf("NAT that was never enabled: got %d removals, want none", removed)
	}
	config.Network.NAT = true
	config.Network.DNS = nil
	h.nat.mu.Lock()
	h.nat.resolvers = []netip.Addr{netip.MustParseAddr("127.7.7.7")}
	h.nat.mu.Unlock()
	h.push(config)
	h.await("NAT", func(s observed) bool { return s.Services[serviceNAT].Serving })
	h.awaitServices()
	if network, _ := h.nat.state(); network != labAddress.Masked() {
		t.Errorf("got NAT of %s, want %s", network, labAddress.Masked())
	}
	if got := h.get("ci/network-config"); !strings.Contains(got.body, "addresses: [127.0.0.1]") || !strings.Contains(got.body, "via: 127.0.0.1") {
		t.Errorf("network configuration: got this text, want one with the server as name server and gateway:\n%s", got.body)
	}
	h.server.mu.Lock()
	asked := *h.server.lab.resolvers.Load()
	h.server.mu.Unlock()
	if want := netip.MustParseAddrPort("127.7.7.7:53"); len(asked) != 1 || asked[0] != want {
		t.Errorf("the name server asks %v, want %s", asked, want)
	}
	// The rules remain when the server stops, and are removed by a server whose
	// config has no NAT.
	h.stop()
	h.start()
	config.Network.NAT = false
	h.push(config)
	h.await("no NAT", func(s observed) bool {
		_, there := s.Services[serviceNAT]
		return !there && s.Services[serviceHTTP].Serving
	})
	network, removed := h.nat.state()
	if network.IsValid() {
		t.Errorf("without NAT in the configuration: got NAT of %s, want none", network)
	}
	if removed != 1 {
		t.Errorf("without NAT in the configuration: got %d removals of it, want 1", removed)
	}
}

func TestOneClientCannotUseAllConnections(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	for range maxConnsPerPeer + 1 {
		h.open("127.1.0.3", "GET ")
	}
	h.await("a refused connection", func(s observed) bool { return s.Refused["HTTPTooManyConnections"] > 0 })
	if got := h.get("kernel"); got.status != http.StatusOK {
		t.Errorf("another client: got status %d, want 200", got.status)
	}
}
