// SPDX-License-Identifier: Apache-2.0

package netbootd

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
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

func report(attempt string, stage installerapi.Stage, written int64) string {
	raw, err := json.Marshal(installerapi.Progress{Attempt: attempt, Stage: stage, BytesWritten: written, BytesTotal: 1_000_000})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func phoneHomeForm(instance string) string {
	return url.Values{
		"pub_key_ed25519": {hostKey + " root@target-1\n"}, "pub_key_rsa": {"N/A"}, "pub_key_ecdsa": {"ecdsa AAAA"},
		"instance_id": {instance}, "hostname": {"target-1"}, "fqdn": {"target-1"},
	}.Encode()
}

// sshServer returns a connection to a fake SSH server.
func sshServer(context.Context, netip.AddrPort) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		_, _ = io.WriteString(server, "welcome\r\nSSH-2.0-OpenSSH_9.6\r\n")
		_ = server.Close()
	}()
	return client, nil
}

// HEAD is answered, and counts as nothing: no boot, no plan, no step of cloud-init.
func TestHeadHasNoEffect(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	head := func(path string, want int) {
		t.Helper()
		if got := h.do(machineAddress, http.MethodHead, path, "", nil); got.status != want || got.body != "" {
			t.Errorf("HEAD %s: got %d and %d bytes, want %d and none", path, got.status, len(got.body), want)
		}
	}
	for _, name := range []string{"boot.ipxe", "plan", "ipxe-error?step=a", "kernel", "initrd", "overlay", "image"} {
		head(h.url(name), http.StatusOK)
	}
	head("http://"+h.service(serviceHTTP)+"/boot.ipxe", http.StatusOK)
	head(h.base()+"progress", http.StatusNotFound)
	kernel := h.do(machineAddress, http.MethodHead, h.url("kernel"), "", nil)
	if got, want := kernel.header.Get("Content-Length"), fmt.Sprint(len(contents["kernel"])); got != want {
		t.Errorf("HEAD kernel: got length %q, want %s", got, want)
	}
	_ = h.get("kernel") // of which the state follows those of the requests before
	m := h.awaitMachine("the kernel", func(m netbootapi.MachineState) bool { return !m.KernelAt.IsZero() })
	if !m.ScriptAt.IsZero() || !m.DiskBootAt.IsZero() || !m.InitrdAt.IsZero() || !m.ImageAt.IsZero() || m.ProfileDigest != "" || m.Installing || m.Warnings != nil {
		t.Errorf("got state %+v, want that only the kernel was sent", m)
	}
	h.install()
	head(h.url("ci/meta-data"), http.StatusOK)
	_ = h.get("ci/user-data")
	m = h.awaitMachine("the installation", func(m netbootapi.MachineState) bool { return m.Install != nil && !m.Install.DoneAt.IsZero() })
	if !m.CloudInitAt.IsZero() {
		t.Errorf("got state %+v, want no cloud-init", m)
	}
}

func TestMachineLifecycle(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)

	// The firmware.
	if file := h.boot(config.Machines[0].MAC, iana.EFI_X86_64, false); file != "ipxe.efi" {
		t.Fatalf("firmware: got boot file %q, want ipxe.efi", file)
	}
	program, err := h.tftp(machineAddress, "ipxe.efi")
	if err != nil || string(program) != string(contents["program"]) {
		t.Fatalf("program by TFTP: got %d bytes, error %v, want the %d bytes of the program", len(program), err, len(contents["program"]))
	}
	h.awaitMachine("the program", func(m netbootapi.MachineState) bool {
		return !m.DiscoverAt.IsZero() && !m.RequestAt.IsZero() && !m.ProgramAt.IsZero()
	})

	// iPXE.
	script := h.do(machineAddress, http.MethodGet, h.boot(config.Machines[0].MAC, iana.EFI_X86_64, true), "", nil)
	isInstall := strings.HasPrefix(script.body, "#!ipxe\n") && strings.Contains(script.body, "rdinit=/pxelab-installer")
	if script.status != http.StatusOK {
		t.Fatalf("script: got status %d, want 200:\n%s", script.status, script.body)
	}
	if !isInstall {
		t.Fatalf("script: got this text, want the install script:\n%s", script.body)
	}
	for _, name := range []string{"kernel", "initrd", "overlay"} {
		if got := h.get(name); got.body != string(contents[name]) {
			t.Errorf("%s: got status %d and %d bytes, want 200 and the %d bytes of the file", name, got.status, len(got.body), len(contents[name]))
		}
	}
	h.awaitMachine("the kernel", func(m netbootapi.MachineState) bool {
		return !m.ScriptAt.IsZero() && !m.KernelAt.IsZero() && !m.InitrdAt.IsZero()
	})

	// The installer.
	var plan installerapi.Plan
	if err := json.Unmarshal([]byte(h.get("plan").body), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.NetworkConfig == "" {
		t.Error("plan: got no network configuration, want one")
	}
	if plan.Attempt != "a1" {
		t.Errorf("plan: got attempt %q, want \"a1\"", plan.Attempt)
	}
	if want := config.Machines[0].ImagePin; plan.ImageDigest != want {
		t.Errorf("plan: got image %s, want %s", plan.ImageDigest, want)
	}
	if want := h.seedBase() + "ci/"; plan.SeedURL != want {
		t.Errorf("plan: got seed URL %q, want %q", plan.SeedURL, want)
	}
	if plan.Handoff != "Reset" {
		t.Errorf("plan: got handoff %q, want \"Reset\"", plan.Handoff)
	}
	h.awaitMachine("the profile digest, the declaration and the network", func(m netbootapi.MachineState) bool {
		declared := m.Declared != nil && m.Declared.Key == "key" && m.Declared.Fields["spec.hostname"] == "0123456789abcdef"
		return declared && m.RootDiskName == "data" && m.ProfileDigest == config.Machines[0].ProfileDigest && m.Network == labAddress.Masked().String()
	})
	if got := h.post("progress", report("a1", installerapi.StageDone, 1_000_000)); got.status != http.StatusConflict {
		t.Errorf("done without the image: got %d %s, want 409", got.status, got.body)
	}
	if got := h.get("image"); got.body != string(contents["image"]) {
		t.Errorf("image: got status %d and %d bytes, want 200 and the %d bytes of the file", got.status, len(got.body), len(contents["image"]))
	}
	image := h.do(machineAddress, http.MethodGet, h.base()+"image", "", http.Header{
		"Range": {"bytes=999000-"}, "If-Range": {`"` + blobOf("image").Digest + `"`},
	})
	if image.status != http.StatusPartialContent {
		t.Errorf("the end of the image: got status %d, want 206", image.status)
	}
	if want := string(contents["image"][999_000:]); image.body != want {
		t.Errorf("the end of the image: got %d bytes, want the last %d of the file", len(image.body), len(want))
	}
	for _, r := range []string{report("a1", installerapi.StageStart, 0), report("a1", installerapi.StageWrite, 500_000)} {
		if got := h.post("progress", r); got.status != http.StatusNoContent {
			t.Errorf("progress report: got %d %s, want 204", got.status, got.body)
		}
	}
	h.awaitMachine("half of the image", func(m netbootapi.MachineState) bool {
		return m.Install != nil && m.Install.BytesWritten == 500_000 && m.Install.BytesTotal == 1_000_000
	})

	// The answer to the last report waits for the boot order.
	answered := make(chan answer)
	go func() { answered <- h.post("progress", report("a1", installerapi.StageDone, 1_000_000)) }()
	h.awaitMachine("the end of the installation", func(m netbootapi.MachineState) bool {
		return m.Install != nil && !m.Install.DoneAt.IsZero()
	})
	config.Machines[0].BootConfirmed = "a1"
	h.push(config)
	if got := <-answered; got.status != http.StatusNoContent {
		t.Errorf("the last report: got %d %s, want 204", got.status, got.body)
	}

	// Another network boot leads to the disk.
	script = h.do(machineAddress, http.MethodGet, h.boot(config.Machines[0].MAC, iana.EFI_X86_64, true), "", nil)
	if !strings.Contains(script.body, "exit 1") {
		t.Errorf("script of an installed machine: got\n%s\nwant exit 1", script.body)
	}
	h.awaitMachine("the boot from disk", func(m netbootapi.MachineState) bool { return !m.DiskBootAt.IsZero() })
	for _, file := range []string{"plan", "image", "kernel"} {
		if got := h.get(file); got.status != http.StatusNotFound {
			t.Errorf("%s of an installed machine: got status %d, want 404", file, got.status)
		}
	}
	if strings.Contains(script.body, machineConfig().Token) {
		t.Errorf("script of an installed machine: got this text, want it without the boot secret:\n%s", script.body)
	}

	// The installed system.
	for name, want := range map[string]string{
		"meta-data": "instance-id: target-1-a1", "user-data": "hostname: target-1",
		"vendor-data": h.seedBase() + "phone-home", "network-config": "127.0.0.11/8",
	} {
		if got := h.get("ci/" + name); got.status != http.StatusOK || !strings.Contains(got.body, want) {
			t.Errorf("%s: got status %d, want 200 and a text with %q:\n%s", name, got.status, want, got.body)
		}
	}
	event := `{"name": "modules-final/config-scripts_user", "description": "running", "event_type": "finish", ` +
		`"origin": "cloudinit", "timestamp": 1.5, "result": "FAIL"}`
	if got := h.post("cloud-init", event); got.status != http.StatusNoContent {
		t.Errorf("cloud-init event: got %d %s, want 204", got.status, got.body)
	}
	h.awaitMachine("the failed module", func(m netbootapi.MachineState) bool {
		return m.CloudInit != nil && len(m.CloudInit.Failures) == 1 && m.CloudInit.Failures[0].Module == "config-scripts_user"
	})
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusOK {
		t.Errorf("phone-home: got %d %s, want 200", got.status, got.body)
	}
	m := h.awaitMachine("the report and a failing SSH port", func(m netbootapi.MachineState) bool {
		return !m.CloudInitAt.IsZero() && m.PhoneHome != nil && m.SSH.Error != ""
	})
	if diff := cmp.Diff([]string{hostKey}, m.PhoneHome.HostKeys); diff != "" {
		t.Errorf("host keys (-want +got):\n%s", diff)
	}
	if n := len(m.Warnings); n == 0 || m.Warnings[n-1].Reason != "HostKeyRefused" || !strings.HasSuffix(m.Warnings[n-1].Message, ": pub_key_ecdsa") {
		t.Errorf("got warnings %+v, want one about the ECDSA key", m.Warnings)
	}
	if got := h.get("ci/user-data"); got.status != http.StatusNotFound {
		t.Errorf("user-data after phone-home: got status %d, want 404", got.status)
	}
	h.mu.Lock()
	h.ssh = sshServer
	h.mu.Unlock()
	m = h.awaitMachine("SSH", func(m netbootapi.MachineState) bool { return m.SSH.Up })
	if m.SSH.PowerOn != "p1" {
		t.Errorf("SSH: got power-on %q, want \"p1\"", m.SSH.PowerOn)
	}
	if m.SSH.UpSince.IsZero() {
		t.Error("SSH: got no time since which it is up, want one")
	}
	if m.SSH.Error != "" {
		t.Errorf("SSH: got error %q, want none", m.SSH.Error)
	}

	// Another power-on is probed from scratch.
	h.mu.Lock()
	h.ssh = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }
	h.mu.Unlock()
	config.Machines[0].PowerOn = "p2"
	h.push(config)
	h.awaitMachine("SSH of the new power-on", func(m netbootapi.MachineState) bool { return m.SSH.PowerOn == "p2" && !m.SSH.Up })
}

// awaitEvent waits until the last event has a name.
func (h *harness) awaitEvent(name string) {
	h.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		events := all(h.server.state)
		if n := len(events); n > 0 && events[n-1].Name == name {
			return
		}
		if time.Now().After(limit) {
			h.t.Fatalf("timeout: got events %+v, want %s", events, name)
		}
	}
}

// Each step of a machine's life is an event, in order, without its secrets.
func TestEventsOfAMachine(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	h.mu.Lock()
	h.ssh = sshServer
	h.mu.Unlock()
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	h.awaitEvent("Ack")
	if _, err := h.tftp(machineAddress, "ipxe.efi"); err != nil {
		t.Fatal(err)
	}
	h.awaitMachine("the program", func(m netbootapi.MachineState) bool { return !m.ProgramAt.IsZero() })
	for _, name := range []string{"boot.ipxe", "kernel", "initrd", "overlay", "plan", "image"} {
		h.get(name)
		h.awaitEvent(name) // is recorded when the file is sent, which the client may notice first
	}
	for _, written := range []int64{0, 10_000, 20_000, 500_000, 510_000} {
		h.post("progress", report("a1", installerapi.StageWrite, written))
	}
	h.post("progress", report("a1", installerapi.StageDone, 1_000_000))
	h.get("ci/meta-data")
	h.post("cloud-init", `{"name": "modules-final", "description": "running", "event_type": "start"}`)
	h.post("phone-home", phoneHomeForm("target-1-a1"))
	h.awaitMachine("SSH", func(m netbootapi.MachineState) bool { return m.SSH.Up })

	want := []string{
		"DHCP Offer", "DHCP Ack", "TFTP ipxe.efi", "HTTP boot.ipxe", "HTTP kernel", "HTTP initrd", "HTTP overlay", "HTTP plan",
		"HTTP image", "Installer Write", "Installer Write", "Installer Done", "HTTP ci/meta-data", "CloudInit modules-final",
		"PhoneHome PhoneHome", "SSH Up",
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []string
	err := h.client.Events(ctx, netbootapi.Position{}, func(store string, e *netbootapi.Event, lost uint64) {
		if lost > 0 || store == "" {
			t.Errorf("got %d lost events of store %q, want none and a name", lost, store)
		}
		if e == nil {
			return
		}
		if e.Machine != "uid-1" || e.MAC != machineConfig().MAC || e.At.IsZero() {
			t.Errorf("got %+v, want an event of uid-1 with its MAC address and a time", e)
		}
		if strings.Contains(e.Name+e.Detail, machineConfig().Token) {
			t.Errorf("got %+v, want it without the token", e)
		}
		if next := string(e.Kind) + " " + e.Name; next != "TFTP ipxe.efi" || got[len(got)-1] != next {
			got = append(got, next)
		}
		if e.Kind == netbootapi.EventSSH {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// The secret in a machine's URLs is in no log at any level, in no event and in no state,
// also if the machine reports it.
func TestSecretsStaySecret(t *testing.T) {
	h := newHarness(t)
	logs := &logBuffer{}
	h.stop()
	h.options.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.start()
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	m := machineConfig()
	token := m.Token
	h.boot(m.MAC, iana.EFI_X86_64, false)
	h.boot(m.MAC, iana.EFI_X86_64, true)
	h.boot("52:54:00:99:99:99", iana.EFI_X86_64, true)
	for _, name := range []string{ipxe.AutoexecName, "m/" + token + "/boot.ipxe"} {
		_, _ = h.tftp(machineAddress, name) // the second is not served
	}
	for _, file := range []string{
		"boot.ipxe", "kernel", "plan", "image", "ipxe-error?step=" + token + "&code=" + token, "ci/user-data", "ci/" + token,
	} {
		h.get(file)
	}
	h.do("127.0.0.12", http.MethodGet, h.base()+"boot.ipxe", "", nil)
	failed := installerapi.Progress{Attempt: "a1", Stage: installerapi.StageFailed, Message: "Get " + h.base() + "image: timeout"}
	unknown := installerapi.Progress{Attempt: token, Stage: installerapi.Stage(token)}
	for _, p := range []installerapi.Progress{failed, unknown} {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		h.post("progress", string(raw))
	}
	h.post("progress", report("a1", installerapi.StageDone, 1_000_000))
	for _, name := range []string{"modules-final", "modules-final/" + token} {
		h.post("cloud-init", `{"name": "`+name+`", "description": "`+h.seedBase()+`", "event_type": "finish", "result": "FAIL"}`)
	}
	h.post("phone-home", url.Values{"instance_id": {"target-1-a1"}, "hostname": {m.SeedToken}}.Encode())
	h.post("phone-home", url.Values{"instance_id": {token}}.Encode())
	state := h.awaitMachine("phone-home", func(m netbootapi.MachineState) bool { return m.PhoneHome != nil })
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	events, err := json.Marshal(all(h.server.state))
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	if !strings.Contains(logs.String(), "stage=iPXE") {
		t.Errorf("got log %q, want it at debug level", logs)
	}
	for what, text := range map[string]string{"log": logs.String(), "state": string(raw), "events": string(events)} {
		for _, secret := range []string{token, m.SeedToken, string(textKey), "#cloud-config"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: got it with %q, want it without:\n%s", what, secret, text)
			}
		}
	}
}

func TestKilledServerResumes(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	if got := h.post("progress", report("a1", installerapi.StageFailed, 1)); got.status != http.StatusNoContent {
		t.Fatalf("report: got %d %s, want 204", got.status, got.body)
	}
	h.await("the lease", func(s observed) bool { return len(s.Leases) == 1 && s.Leases[0].Reserved })
	h.stop()
	// The first state that a client can see is already the earlier one: the
	// services start seconds later on a busy host.
	restarted, err := New(h.options)
	if err != nil {
		t.Fatal(err)
	}
	state, _ := restarted.state.observe()
	if len(state.Leases) != 1 || !state.Leases[0].Reserved {
		t.Errorf("before the services run: got leases %+v, want one that is reserved", state.Leases)
	}
	if err := restarted.api.Close(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.awaitServices()
	state = h.await("the earlier state", func(s observed) bool {
		return s.Server == labConfig().digest() && len(s.MissingBlobs)+len(s.Machines["uid-1"].MissingBlobs) == 0
	})
	m := state.Machines["uid-1"]
	if m.DiscoverAt.IsZero() {
		t.Error("after a restart: got no time of the DISCOVER, want one")
	}
	if m.Install == nil || m.Install.Error == "" {
		t.Errorf("after a restart: got installation %+v, want one with an error", m.Install)
	}
	if len(state.Leases) != 1 || !state.Leases[0].Reserved {
		t.Errorf("after a restart: got leases %+v, want one that is reserved", state.Leases)
	}
	if got := h.get("kernel"); got.body != string(contents["kernel"]) {
		t.Errorf("kernel: got status %d and %d bytes, want 200 and the %d bytes of the file", got.status, len(got.body), len(contents["kernel"]))
	}
	for _, name := range []string{fileServer, entryFile("uid-1"), observedFile("uid-1"), fileLeases} {
		info, err := os.Stat(filepath.Join(h.options.StateDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s: got mode %v, want 0600", name, mode)
		}
	}
}

func TestRemovedMachineLosesLease(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	h.await("the lease", func(s observed) bool { return len(s.Leases) == 1 })
	config.Machines = nil
	h.push(config)
	h.await("no lease", func(s observed) bool { return len(s.Leases) == 0 })
	h.stop()
	h.start()
	h.awaitServices()
	state := h.await("the earlier state", func(s observed) bool { return s.Server == config.digest() })
	if len(state.Leases) != 0 {
		t.Errorf("got leases %+v after a restart, want none", state.Leases)
	}
}

func TestDamagedFilesAreIgnored(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.stop()
	for _, name := range []string{fileServer, entryFile("uid-1"), observedFile("uid-1"), fileLeases} {
		if err := os.WriteFile(filepath.Join(h.options.StateDir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.await("a server without configuration", func(s observed) bool { return s.Server == "" && s.Version == "test" })
	h.up(labConfig())
}

func TestNewAttemptResetsState(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	h.install()
	config.Machines[0].Attempt = "a2"
	config.Machines[0].InstanceID = "target-1-a2"
	h.push(config)
	m := h.awaitMachine("the new attempt", func(m netbootapi.MachineState) bool { return m.Attempt == "a2" })
	if m.Install != nil {
		t.Errorf("got installation %+v of the old attempt, want none", m.Install)
	}
	if got := h.post("progress", report("a1", installerapi.StageWrite, 1)); got.status != http.StatusConflict {
		t.Errorf("report of the old attempt: got status %d, want 409", got.status)
	}
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusConflict {
		t.Errorf("phone-home of the old attempt: got status %d, want 409", got.status)
	}
	state := h.await("the refusals", func(s observed) bool { return s.Refused["ReportRefused"] > 0 })
	m = state.Machines["uid-1"]
	if m.Install != nil {
		t.Errorf("after refused reports: got installation %+v, want none", m.Install)
	}
	if m.PhoneHome != nil {
		t.Errorf("after refused reports: got phone-home %+v, want none", m.PhoneHome)
	}
	if got := h.get("plan"); got.status != http.StatusOK {
		t.Errorf("plan of the new attempt: got %d %s, want 200", got.status, got.body)
	}
}

func TestMissingContentDelaysBoot(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.stop()
	// Lost blobs: a damaged file system.
	blobs := filepath.Join(h.options.StateDir, "blobs")
	for _, name := range []string{"program", "kernel"} {
		if err := os.Remove(filepath.Join(blobs, "sha256-"+strings.TrimPrefix(blobOf(name).Digest, "sha256:"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(blobs, "sha256-"+strings.TrimPrefix(blobOf("initrd").Digest, "sha256:")), 7); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.awaitServices()
	state := h.await("the missing blobs", func(s observed) bool {
		return len(s.MissingBlobs) == 1 && len(s.Machines["uid-1"].MissingBlobs) == 2
	})
	if state.MissingBlobs[0] != blobOf("program") {
		t.Errorf("got missing blobs %+v, want %+v", state.MissingBlobs, blobOf("program"))
	}
	if got := state.Machines["uid-1"].MissingBlobs; !slices.Equal(got, []netbootapi.Blob{blobOf("kernel"), blobOf("initrd")}) {
		t.Errorf("got missing blobs %+v of the machine, want kernel and initrd", got)
	}
	if file := h.boot(machineConfig().MAC, iana.EFI_X86_64, false); file != "" {
		t.Errorf("got boot file %q without a program, want none", file)
	}
	h.awaitMachine("a warning", func(m netbootapi.MachineState) bool {
		return len(m.Warnings) > 0 && m.Warnings[0].Reason == policy.ReasonNoProgram
	})
	if err := h.client.UploadBlob(t.Context(), blobOf("program"), strings.NewReader(string(contents["program"])), nil); err != nil {
		t.Fatal(err)
	}
	if got := h.get("boot.ipxe"); !strings.Contains(got.body, "chain --replace") {
		t.Errorf("script while the kernel is missing: got this text, want one with \"chain --replace\":\n%s", got.body)
	}
	h.upload()
	if got := h.get("boot.ipxe"); !strings.Contains(got.body, "boot || goto failed") {
		t.Errorf("script: got this text, want one with \"boot || goto failed\":\n%s", got.body)
	}
}

// A machine that boots from its disk does so although texts of its content were lost.
func TestDiskBootNeedsNoTexts(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].Boot = netbootapi.BootDisk
	config.Machines[0].IPXETemplate = textOf("#!ipxe\nboot # of the installer\n")
	h.up(config)
	h.stop()
	for _, blob := range config.Machines[0].Texts() {
		if err := os.Remove(h.server.blobs.path(blob.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.awaitServices()
	h.awaitMachine("the missing texts", func(m netbootapi.MachineState) bool { return len(m.MissingBlobs) >= 3 })
	if got := h.get("boot.ipxe"); got.status != http.StatusOK || !strings.Contains(got.body, "exit 1") {
		t.Errorf("script without texts: got %d %s, want 200 and one that continues with the disk", got.status, got.body)
	}
	m := h.awaitMachine("the boot from disk", func(m netbootapi.MachineState) bool { return !m.DiskBootAt.IsZero() })
	if len(m.Warnings) != 0 {
		t.Errorf("got warnings %+v, want none", m.Warnings)
	}
}

// Every URL and file name that a boot stage receives must be served.
func TestEveryAdvertisedURLIsServed(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	// Firmware by TFTP and by HTTP, then iPXE.
	file := h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	if got, err := h.tftp(machineAddress, file); err != nil || len(got) != len(contents["program"]) {
		t.Errorf("TFTP %q: got %d bytes, error %v, want %d bytes", file, len(got), err, len(contents["program"]))
	}
	programURL := h.boot(machineConfig().MAC, iana.EFI_X86_64_HTTP, false)
	if got := h.do(machineAddress, http.MethodGet, programURL, "", nil); got.body != string(contents["program"]) {
		t.Errorf("HTTP %q: got status %d and %d bytes, want 200 and the %d bytes of the program",
			programURL, got.status, len(got.body), len(contents["program"]))
	}
	scriptURL := h.boot(machineConfig().MAC, iana.EFI_X86_64, true)
	autoexec := h.do(machineAddress, http.MethodGet, strings.TrimSuffix(programURL, "ipxe.efi")+ipxe.AutoexecName, "", nil)
	if !strings.Contains(autoexec.body, " "+scriptURL+" ") {
		t.Errorf("%s by HTTP: got status %d, want a text with %q:\n%s", ipxe.AutoexecName, autoexec.status, scriptURL, autoexec.body)
	}
	if got, err := h.tftp(machineAddress, ipxe.AutoexecName); err != nil || !strings.Contains(string(got), " "+scriptURL+" ") {
		t.Errorf("%s by TFTP: got error %v, want a text with %q:\n%s", ipxe.AutoexecName, err, scriptURL, got)
	}
	script := h.do(machineAddress, http.MethodGet, scriptURL, "", nil)
	if script.status != http.StatusOK {
		t.Fatalf("%s: got status %d, want 200", scriptURL, script.status)
	}
	base := ""
	for line := range strings.Lines(script.body) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "set base "); ok {
			base = rest
		}
	}
	found := 0
	for _, word := range strings.Fields(script.body) {
		target := strings.NewReplacer("${base}", base, "${step}", "kernel", "${code}", "0x1").Replace(word)
		_, target, isArg := strings.Cut(target, installerapi.ArgURL+"=")
		if isArg {
			target += "plan"
		} else {
			target = strings.NewReplacer("${base}", base, "${step}", "kernel", "${code}", "0x1").Replace(word)
		}
		if !strings.HasPrefix(target, "http://") || target == base {
			continue
		}
		found++
		if got := h.do(machineAddress, http.MethodGet, target, "", nil); got.status != http.StatusOK {
			t.Errorf("%s: got %d %s, want 200", target, got.status, got.body)
		}
	}
	if found != 5 {
		t.Errorf("got %d URLs in the script, want kernel, initrd, overlay, plan and ipxe-error:\n%s", found, script.body)
	}
	var plan installerapi.Plan
	if err := json.Unmarshal([]byte(h.get("plan").body), &plan); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		if got := h.do(machineAddress, http.MethodGet, plan.SeedURL+name, "", nil); got.status != http.StatusOK {
			t.Errorf("%s: got status %d, want 200", name, got.status)
		}
	}
	h.awaitMachine("the error that iPXE reported", func(m netbootapi.MachineState) bool {
		return len(m.Warnings) > 0 && m.Warnings[0].Reason == "IPXEFailed"
	})
}
