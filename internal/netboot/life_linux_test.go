// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/install"
	"github.com/pxelab/pxelab/internal/ipxe"
)

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqyzpVSCXwRMfPEgEhTDpBzvjn8fdVnPBpBLCXsVDHq"

func report(attempt string, stage install.Stage, written int64) string {
	raw, err := json.Marshal(install.Progress{Attempt: attempt, Stage: stage, BytesWritten: written, BytesTotal: 1_000_000})
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

// sshServer answers like one, on a pipe.
func sshServer(context.Context, netip.AddrPort) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		_, _ = io.WriteString(server, "welcome\r\nSSH-2.0-OpenSSH_9.6\r\n")
		_ = server.Close()
	}()
	return client, nil
}

func TestLifeOfAMachine(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)

	// The firmware.
	if file := h.boot(config.Machines[0].MAC, iana.EFI_X86_64, false); file != "ipxe.efi" {
		t.Fatalf("the firmware's boot file is %q", file)
	}
	program, err := h.tftp(machineAddress, "ipxe.efi")
	if err != nil || string(program) != string(contents["program"]) {
		t.Fatalf("%d bytes of the program, %v", len(program), err)
	}
	h.awaitMachine("the program", func(m agent.MachineState) bool {
		return !m.DiscoverAt.IsZero() && !m.RequestAt.IsZero() && !m.ProgramAt.IsZero()
	})

	// iPXE.
	script := h.do(machineAddress, http.MethodGet, h.boot(config.Machines[0].MAC, iana.EFI_X86_64, true), "", nil)
	if script.status != http.StatusOK || !strings.HasPrefix(script.body, "#!ipxe\n") || !strings.Contains(script.body, "rdinit=/pxelab-installer") {
		t.Fatalf("the script: %d\n%s", script.status, script.body)
	}
	for _, name := range []string{"kernel", "initrd", "overlay"} {
		if got := h.get(name); got.body != string(contents[name]) {
			t.Errorf("%s: %d, %d bytes", name, got.status, len(got.body))
		}
	}
	h.awaitMachine("the kernel", func(m agent.MachineState) bool {
		return !m.ScriptAt.IsZero() && !m.KernelAt.IsZero() && !m.InitrdAt.IsZero()
	})

	// The installer.
	var plan install.Plan
	if err := json.Unmarshal([]byte(h.get("plan").body), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Attempt != "a1" || plan.ImageDigest != config.Machines[0].ImagePin || plan.SeedURL != h.base()+"ci/" || plan.Handoff != "Reset" || plan.NetworkConfig == "" {
		t.Errorf("the plan: %+v", plan)
	}
	h.awaitMachine("what it is installed from", func(m agent.MachineState) bool { return m.ProfileDigest == config.Machines[0].ProfileDigest })
	image := h.do(machineAddress, http.MethodGet, h.base()+"image", "", http.Header{"Range": {"bytes=999000-"}, "If-Range": {`"` + blobOf("image").Digest + `"`}})
	if image.status != http.StatusPartialContent || image.body != string(contents["image"][999_000:]) {
		t.Errorf("the end of the image: %d, %d bytes", image.status, len(image.body))
	}
	for _, r := range []string{report("a1", install.StageStart, 0), report("a1", install.StageWrite, 500_000)} {
		if got := h.post("progress", r); got.status != http.StatusNoContent {
			t.Errorf("a report: %d %s", got.status, got.body)
		}
	}
	h.awaitMachine("half of the image", func(m agent.MachineState) bool {
		return m.Install != nil && m.Install.BytesWritten == 500_000 && m.Install.BytesTotal == 1_000_000
	})

	// The answer to the last report waits for the boot order.
	answered := make(chan answer)
	go func() { answered <- h.post("progress", report("a1", install.StageDone, 1_000_000)) }()
	h.awaitMachine("the end", func(m agent.MachineState) bool { return m.Install != nil && !m.Install.DoneAt.IsZero() })
	config.Machines[0].BootConfirmed = "a1"
	h.push(config)
	if got := <-answered; got.status != http.StatusNoContent {
		t.Errorf("the last report: %d %s", got.status, got.body)
	}

	// Another network boot leads to the disk.
	script = h.do(machineAddress, http.MethodGet, h.boot(config.Machines[0].MAC, iana.EFI_X86_64, true), "", nil)
	if !strings.Contains(script.body, "exit 1") {
		t.Errorf("the script of an installed machine:\n%s", script.body)
	}
	h.awaitMachine("the boot from disk", func(m agent.MachineState) bool { return !m.DiskBootAt.IsZero() })
	if got := h.get("plan"); got.status != http.StatusConflict {
		t.Errorf("an installed machine's plan: %d", got.status)
	}

	// The installed system.
	for name, want := range map[string]string{
		"meta-data": "instance-id: target-1-a1", "user-data": "hostname: target-1", "vendor-data": h.base() + "phone-home", "network-config": "127.0.0.11/8",
	} {
		if got := h.get("ci/" + name); got.status != http.StatusOK || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d\n%s", name, got.status, got.body)
		}
	}
	event := `{"name": "modules-final/config-scripts_user", "description": "running", "event_type": "finish", "origin": "cloudinit", "timestamp": 1.5, "result": "FAIL"}`
	if got := h.post("cloud-init", event); got.status != http.StatusNoContent {
		t.Errorf("an event of cloud-init: %d %s", got.status, got.body)
	}
	h.awaitMachine("the failed module", func(m agent.MachineState) bool {
		return m.CloudInit != nil && len(m.CloudInit.Failures) == 1 && m.CloudInit.Failures[0].Module == "config-scripts_user"
	})
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusOK {
		t.Errorf("phoning home: %d %s", got.status, got.body)
	}
	m := h.awaitMachine("the report and a failing SSH port", func(m agent.MachineState) bool {
		return !m.CloudInitAt.IsZero() && m.PhoneHome != nil && m.SSH.Error != ""
	})
	if diff := cmp.Diff([]string{hostKey}, m.PhoneHome.HostKeys); diff != "" {
		t.Error(diff)
	}
	h.mu.Lock()
	h.ssh = sshServer
	h.mu.Unlock()
	m = h.awaitMachine("SSH", func(m agent.MachineState) bool { return m.SSH.Up })
	if m.SSH.PowerOn != "p1" || m.SSH.UpSince.IsZero() || m.SSH.Error != "" {
		t.Errorf("SSH: %+v", m.SSH)
	}

	// Another power-on asks again.
	h.mu.Lock()
	h.ssh = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }
	h.mu.Unlock()
	config.Machines[0].PowerOn = "p2"
	h.push(config)
	h.awaitMachine("SSH of the new power-on", func(m agent.MachineState) bool { return m.SSH.PowerOn == "p2" && !m.SSH.Up })
}

func TestAKilledServerGoesOnWhereItWas(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	if got := h.post("progress", report("a1", install.StageFailed, 1)); got.status != http.StatusNoContent {
		t.Fatalf("the report: %d %s", got.status, got.body)
	}
	h.await("the lease", func(s agent.State) bool { return len(s.Leases) == 1 && s.Leases[0].Reserved })
	h.stop()
	h.start()
	h.awaitServices()
	state := h.await("the earlier state", func(s agent.State) bool { return s.ConfigDigest == labConfig().Digest() && len(s.MissingBlobs) == 0 })
	m := state.Machines["uid-1"]
	if m.DiscoverAt.IsZero() || m.Install == nil || m.Install.Error == "" {
		t.Errorf("the machine: %+v", m)
	}
	if len(state.Leases) != 1 || !state.Leases[0].Reserved {
		t.Errorf("leases: %+v", state.Leases)
	}
	if got := h.get("kernel"); got.body != string(contents["kernel"]) {
		t.Errorf("kernel: %d, %d bytes", got.status, len(got.body))
	}
	for _, name := range []string{fileConfig, fileState, fileLeases} {
		info, err := os.Stat(filepath.Join(h.options.StateDir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestAMachineThatIsGoneHasNoLease(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	h.await("the lease", func(s agent.State) bool { return len(s.Leases) == 1 })
	config.Machines = nil
	h.push(config)
	h.await("no lease", func(s agent.State) bool { return len(s.Leases) == 0 })
	h.stop()
	h.start()
	h.awaitServices()
	if state := h.await("the earlier state", func(s agent.State) bool { return s.ConfigDigest == config.Digest() }); len(state.Leases) != 0 {
		t.Errorf("leases after a restart: %+v", state.Leases)
	}
}

func TestDamagedFilesAreNoObstacle(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.stop()
	for _, name := range []string{fileConfig, fileState, fileLeases} {
		if err := os.WriteFile(filepath.Join(h.options.StateDir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.await("a server without configuration", func(s agent.State) bool { return s.ConfigDigest == "" && s.Version == "test" })
	h.up(labConfig())
}

func TestANewAttemptForgets(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	if got := h.post("progress", report("a1", install.StageDone, 1)); got.status != http.StatusNoContent {
		t.Fatalf("the report: %d %s", got.status, got.body)
	}
	config.Machines[0].Attempt, config.Machines[0].InstanceID = "a2", "target-1-a2"
	h.push(config)
	m := h.awaitMachine("the new attempt", func(m agent.MachineState) bool { return m.Attempt == "a2" })
	if m.Install != nil {
		t.Errorf("the installation is remembered: %+v", m.Install)
	}
	if got := h.post("progress", report("a1", install.StageWrite, 1)); got.status != http.StatusConflict {
		t.Errorf("a report of the old attempt: %d", got.status)
	}
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusConflict {
		t.Errorf("a phone-home of the old attempt: %d", got.status)
	}
	state := h.await("the refusals", func(s agent.State) bool { return s.Refused["ReportRefused"] > 0 })
	if m := state.Machines["uid-1"]; m.Install != nil || m.PhoneHome != nil {
		t.Errorf("refused reports took effect: %+v", m)
	}
	if got := h.get("plan"); got.status != http.StatusOK {
		t.Errorf("the plan of the new attempt: %d %s", got.status, got.body)
	}
}

func TestMissingContentIsWaitedFor(t *testing.T) {
	h := newHarness(t)
	h.push(labConfig())
	h.awaitServices()
	state := h.await("the list of what is missing", func(s agent.State) bool { return len(s.MissingBlobs) == 5 })
	if state.MissingBlobs[0] != blobOf("program") {
		t.Errorf("missing: %+v", state.MissingBlobs)
	}
	if file := h.boot(machineConfig().MAC, iana.EFI_X86_64, false); file != "" {
		t.Errorf("boot file %q without a program", file)
	}
	h.awaitMachine("a warning", func(m agent.MachineState) bool { return len(m.Warnings) > 0 && m.Warnings[0].Reason == ReasonNoProgram })
	if err := h.client.UploadBlob(t.Context(), blobOf("program"), strings.NewReader(string(contents["program"])), nil); err != nil {
		t.Fatal(err)
	}
	if got := h.get("boot.ipxe"); !strings.Contains(got.body, "chain --replace") {
		t.Errorf("the script without kernel:\n%s", got.body)
	}
	h.upload()
	if got := h.get("boot.ipxe"); !strings.Contains(got.body, "boot || goto failed") {
		t.Errorf("the script:\n%s", got.body)
	}
}

func TestUnneededContentIsRemoved(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	// An installed machine may name what it was installed from, which is kept.
	m := &config.Machines[0]
	m.Boot = agent.BootDisk
	h.push(config)
	entries, err := os.ReadDir(filepath.Join(h.options.StateDir, "blobs"))
	if err != nil || len(entries) != 5 {
		t.Errorf("left of what is named: %v, %v", entries, err)
	}
	m.Kernel, m.Initrd, m.Overlay, m.Image = agent.Blob{}, agent.Blob{}, agent.Blob{}, agent.Blob{}
	h.push(config)
	entries, err = os.ReadDir(filepath.Join(h.options.StateDir, "blobs"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestTheContract(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	// Firmware by TFTP and by HTTP, then iPXE: whatever is advertised is there.
	file := h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	if got, err := h.tftp(machineAddress, file); err != nil || len(got) != len(contents["program"]) {
		t.Errorf("TFTP %q: %d bytes, %v", file, len(got), err)
	}
	programURL := h.boot(machineConfig().MAC, iana.EFI_X86_64_HTTP, false)
	if got := h.do(machineAddress, http.MethodGet, programURL, "", nil); got.body != string(contents["program"]) {
		t.Errorf("HTTP %q: %d, %d bytes", programURL, got.status, len(got.body))
	}
	scriptURL := h.boot(machineConfig().MAC, iana.EFI_X86_64, true)
	autoexec := h.do(machineAddress, http.MethodGet, strings.TrimSuffix(programURL, "ipxe.efi")+ipxe.AutoexecName, "", nil)
	if !strings.Contains(autoexec.body, " "+scriptURL+" ") {
		t.Errorf("%s by HTTP: %d\n%s", ipxe.AutoexecName, autoexec.status, autoexec.body)
	}
	if got, err := h.tftp(machineAddress, ipxe.AutoexecName); err != nil || !strings.Contains(string(got), " "+scriptURL+" ") {
		t.Errorf("%s: %v\n%s", ipxe.AutoexecName, err, got)
	}
	script := h.do(machineAddress, http.MethodGet, scriptURL, "", nil)
	if script.status != http.StatusOK {
		t.Fatalf("%s: %d", scriptURL, script.status)
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
		_, target, isArg := strings.Cut(target, install.ArgURL+"=")
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
			t.Errorf("%s: %d %s", target, got.status, got.body)
		}
	}
	if found != 5 {
		t.Errorf("%d URLs in the script, want kernel, initrd, overlay, plan and ipxe-error:\n%s", found, script.body)
	}
	var plan install.Plan
	if err := json.Unmarshal([]byte(h.get("plan").body), &plan); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		if got := h.do(machineAddress, http.MethodGet, plan.SeedURL+name, "", nil); got.status != http.StatusOK {
			t.Errorf("%s: %d", name, got.status)
		}
	}
	h.awaitMachine("the error that iPXE told", func(m agent.MachineState) bool {
		return len(m.Warnings) > 0 && m.Warnings[0].Reason == "IPXEFailed"
	})
}
