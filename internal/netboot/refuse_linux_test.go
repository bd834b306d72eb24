// SPDX-License-Identifier: Apache-2.0

package netboot

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

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/install"
)

func TestUnknownClientsGetNothingToBoot(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	if file := h.boot("52:54:00:99:99:99", iana.EFI_X86_64, false); file != "" {
		t.Errorf("boot file %q", file)
	}
	state := h.await("the unknown client", func(s agent.State) bool { return len(s.Unknown) == 1 && s.Unknown[0].Address.IsValid() })
	if u := state.Unknown[0]; u.MAC != "52:54:00:99:99:99" || u.Architecture != "x86_64" || u.LastSeen.IsZero() {
		t.Errorf("%+v", u)
	}
	if _, err := h.tftp("127.1.0.1", "ipxe.efi"); err == nil {
		t.Error("it got the program by TFTP")
	}
	if got := h.do("127.1.0.1", http.MethodGet, "http://"+h.service(serviceHTTP)+"/program/ipxe.efi", "", nil); got.status != http.StatusNotFound {
		t.Errorf("it got the program by HTTP: %d", got.status)
	}
	// Once it is declared it is unknown no longer.
	config := labConfig()
	other := machineConfig()
	other.UID, other.Token, other.MAC, other.Address = "uid-2", "other-token-01234567890", "52:54:00:99:99:99", netip.MustParseAddr("127.0.0.12")
	config.Machines = append(config.Machines, other)
	h.push(config)
	h.await("an empty list", func(s agent.State) bool { return len(s.Unknown) == 0 })
}

func TestAnotherArchitectureGetsNothingToBoot(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	if file := h.boot(machineConfig().MAC, iana.EFI_ARM64, false); file != "" {
		t.Errorf("boot file %q", file)
	}
	m := h.awaitMachine("a warning", func(m agent.MachineState) bool { return len(m.Warnings) > 0 })
	if w := m.Warnings[0]; w.Reason != ReasonArchitecture || !strings.Contains(w.Message, "aarch64") {
		t.Errorf("%+v", w)
	}
}

func TestForeignRequestsLookLikeMissingPages(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	host := "http://" + h.service(serviceHTTP)
	for name, c := range map[string]struct{ address, url, reason string }{
		"another machine's token": {"127.0.0.12", h.base() + "ci/user-data", "HTTPForeignAddress"},
		"a guessed token":         {machineAddress, host + "/m/secret-token-9999999999/ci/user-data", "HTTPUnknownToken"},
		"no page":                 {machineAddress, host + "/etc/passwd", "HTTPUnknownPath"},
		"no page of a machine":    {machineAddress, h.base() + "../../config.json", "HTTPUnknownPath"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.do(c.address, http.MethodGet, c.url, "", nil); got.status != http.StatusNotFound {
				t.Errorf("%d %s", got.status, got.body)
			}
			h.await("its count", func(s agent.State) bool { return s.Refused[c.reason] > 0 })
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
		"no JSON":               {"progress", "{", http.StatusBadRequest},
		"no stage":              {"progress", report("a1", "", 1), http.StatusBadRequest},
		"negative bytes":        {"progress", report("a1", install.StageWrite, -1), http.StatusBadRequest},
		"large":                 {"progress", `{"message":"` + strings.Repeat("x", maxReport) + `"}`, http.StatusBadRequest},
		"another attempt":       {"progress", report("a0", install.StageWrite, 1), http.StatusConflict},
		"an event of no type":   {"cloud-init", `{"name": "modules-final", "event_type": "x"}`, http.StatusBadRequest},
		"an event of no name":   {"cloud-init", `{"name": "a b", "event_type": "start"}`, http.StatusBadRequest},
		"an event without JSON": {"cloud-init", "name=x", http.StatusBadRequest},
		"before its time":       {"phone-home", phoneHomeForm("target-1-a1"), http.StatusConflict},
		"another instance":      {"phone-home", phoneHomeForm("target-1-a0"), http.StatusConflict},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.post(c.path, c.body); got.status != c.status {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	m := h.awaitMachine("the warnings", func(m agent.MachineState) bool { return len(m.Warnings) >= 4 })
	if m.Install != nil || m.PhoneHome != nil || m.CloudInit != nil {
		t.Errorf("they took effect: %+v", m)
	}
}

func TestTemplatesThatFailStopTheInstallation(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].UserDataTemplate = "#cloud-config\nx: {{ .Parameters.zone }}\n"
	config.Machines[0].IPXETemplate = "echo no header\n"
	h.up(config)
	if got := h.get("plan"); got.status != http.StatusUnprocessableEntity || !strings.Contains(got.body, `"zone"`) {
		t.Errorf("plan: %d %s", got.status, got.body)
	}
	if got := h.get("boot.ipxe"); got.status != http.StatusInternalServerError {
		t.Errorf("script: %d %s", got.status, got.body)
	}
	h.awaitMachine("both warnings", func(m agent.MachineState) bool { return len(m.Warnings) == 2 })
	config.Machines[0].UserDataTemplate = ""
	config.Machines[0].IPXETemplate = "#!ipxe\nkernel {{ .KernelURL }} {{ .CommandLine }}\ninitrd {{ .InitrdURL }}\nboot # {{ .Name }}\n"
	h.push(config)
	if got := h.get("boot.ipxe"); got.status != http.StatusOK || !strings.Contains(got.body, "kernel "+h.base()+"kernel initrd=") {
		t.Errorf("script: %d %s", got.status, got.body)
	}
}

func TestAnInvalidConfigurationChangesNothing(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	bad := labConfig()
	bad.Machines[0].Address = labAddress.Addr()
	if _, err := h.client.PushConfig(t.Context(), bad); !errors.Is(err, agent.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
	state := h.await("the reason", func(s agent.State) bool { return s.ConfigError != "" })
	if state.ConfigDigest != labConfig().Digest() {
		t.Error("the configuration in force changed")
	}
	// Pushing the same document again clears the error of the other.
	h.push(labConfig())
	h.await("no reason", func(s agent.State) bool { return s.ConfigError == "" })
}

func TestProxyReachesDeclaredMachinesOnly(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.mu.Lock()
	h.ssh = sshServer
	h.mu.Unlock()
	for _, address := range []string{"127.0.0.12:22", "10.0.0.1:22", "127.0.0.1:22"} {
		if _, err := h.client.DialTarget(t.Context(), netip.MustParseAddrPort(address)); !errors.Is(err, agent.ErrNoTarget) {
			t.Errorf("%s: %v", address, err)
		}
	}
	conn, err := h.client.DialTarget(t.Context(), netip.MustParseAddrPort(machineAddress+":22"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 7)
	if _, err := conn.Read(buf); err != nil || string(buf) != "welcome" {
		t.Errorf("%q, %v", buf, err)
	}
}

func TestUploadsSurviveARestart(t *testing.T) {
	h := newHarness(t)
	h.push(labConfig())
	image := contents["image"]
	broken := struct {
		*bytes.Reader
	}{bytes.NewReader(image[:700_000])}
	if err := h.client.UploadBlob(t.Context(), blobOf("image"), broken, nil); err == nil {
		t.Fatal("an upload whose source ends early succeeded")
	}
	// The server takes in what it got after the client has given up.
	for limit := time.After(patience); ; {
		if here, _, err := h.server.blobs.offset(blobOf("image").Digest); err != nil || here > 0 {
			break
		}
		select {
		case <-limit:
			t.Fatal("nothing was stored")
		case <-time.After(10 * time.Millisecond):
		}
	}
	h.stop()
	h.start()
	h.await("the configuration", func(s agent.State) bool { return s.ConfigDigest != "" })
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
		t.Error("it started over")
	}
	// Content that is not what its digest says leaves nothing behind.
	wrong := append([]byte("x"), contents["kernel"][1:]...)
	if err := h.client.UploadBlob(t.Context(), blobOf("kernel"), bytes.NewReader(wrong), nil); !errors.Is(err, agent.ErrDigest) {
		t.Errorf("error is %v", err)
	}
	if err := h.client.UploadBlob(t.Context(), blobOf("kernel"), bytes.NewReader(contents["kernel"]), nil); err != nil {
		t.Error(err)
	}
}

func TestServicesRecover(t *testing.T) {
	h := newHarness(t)
	busy, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	h.options.HTTPPort = uint16(busy.Addr().(*net.TCPAddr).Port)
	h.start()
	h.push(labConfig())
	h.await("the service's error", func(s agent.State) bool {
		return strings.Contains(s.Services[serviceHTTP].Error, "address already in use")
	})
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	h.awaitServices()
}

func TestNATComesAndGoes(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	if _, removed := h.nat.state(); removed != 0 {
		t.Error("rules that never were are removed")
	}
	config.Network.NAT, config.Network.DNS = true, nil
	h.nat.mu.Lock()
	h.nat.resolvers = []netip.Addr{netip.MustParseAddr("127.7.7.7")}
	h.nat.mu.Unlock()
	h.push(config)
	h.await("NAT", func(s agent.State) bool { return s.Services[serviceNAT].Serving })
	h.awaitServices()
	if network, _ := h.nat.state(); network != labAddress.Masked() {
		t.Errorf("NAT of %s", network)
	}
	if got := h.get("ci/network-config"); !strings.Contains(got.body, "127.7.7.7") || !strings.Contains(got.body, "via: 127.0.0.1") {
		t.Errorf("network configuration:\n%s", got.body)
	}
	// The rules outlive a server that is killed, and go when it comes back
	// without NAT.
	h.stop()
	h.start()
	config.Network.NAT = false
	h.push(config)
	h.await("no NAT", func(s agent.State) bool {
		_, there := s.Services[serviceNAT]
		return !there && s.Services[serviceHTTP].Serving
	})
	if network, removed := h.nat.state(); network.IsValid() || removed != 1 {
		t.Errorf("NAT of %s, removed %d times", network, removed)
	}
}

func TestOneClientCannotTakeAllConnections(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	for range maxConnsPerPeer + 1 {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.1.0.3")}}
		conn, err := dialer.DialContext(t.Context(), "tcp", h.service(serviceHTTP))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	h.await("a refused connection", func(s agent.State) bool { return s.Refused["HTTPTooManyConnections"] > 0 })
	if got := h.get("kernel"); got.status != http.StatusOK {
		t.Errorf("another client: %d", got.status)
	}
}
