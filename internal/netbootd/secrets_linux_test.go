// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// restartKilled ends the server as SIGKILL would and starts another.
func (h *harness) restartKilled() {
	h.t.Helper()
	h.kill()
	h.start()
	h.awaitServices()
}

// part gets a part of the image.
func (h *harness) part(start, end int) answer {
	return h.do(machineAddress, http.MethodGet, h.base()+fileImage, "", http.Header{
		"Range": {fmt.Sprintf("bytes=%d-%d", start, end-1)}, "If-Range": {`"` + blobOf("image").Digest + `"`},
	})
}

// An attempt is done once, after the whole image was sent, and phones home once, after
// that: whatever comes early, again or late, and however often netbootd is killed.
func TestReportsCountOnceAndInOrder(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	const size = 1_000_000
	done, home := report("a1", installerapi.StageDone, size), phoneHomeForm("target-1-a1")
	check := func(when, path, body string, want int) {
		t.Helper()
		if got := h.post(path, body); got.status != want {
			t.Errorf("%s %s: got %d %s, want %d", path, when, got.status, got.body, want)
		}
	}
	early := func(when string) {
		t.Helper()
		check(when, "progress", done, http.StatusConflict)
		check(when, "phone-home", home, http.StatusConflict)
	}
	early("at first")
	h.get(fileScript)
	h.get(fileImage)
	early("without a plan")
	h.get(fileScript)
	h.get(filePlan)
	h.restartKilled()
	early("with the plan")
	h.part(0, 400_000)
	h.part(700_000, size)
	early("with a gap in the image")
	h.part(300_000, 600_000) // resumes before the end of the first part
	h.restartKilled()
	early("with a part of the image")
	h.part(600_000, size)
	h.restartKilled()
	check("in part", "progress", report("a1", installerapi.StageDone, size-1), http.StatusConflict)
	check("too early", "phone-home", home, http.StatusConflict)
	check("with the image", "progress", done, http.StatusNoContent)
	first := h.awaitMachine("the end", func(m netbootapi.MachineState) bool { return m.Install != nil && !m.Install.DoneAt.IsZero() })

	h.restartKilled()
	check("again", "progress", done, http.StatusNoContent)
	check("late", "progress", report("a1", installerapi.StageFailed, 1), http.StatusNoContent)
	check("of another instance", "phone-home", phoneHomeForm("target-1-a0"), http.StatusConflict)
	check("in order", "phone-home", home, http.StatusOK)
	h.restartKilled()
	forged := url.Values{"instance_id": {"target-1-a1"}, "hostname": {"forged"}, "pub_key_ed25519": {"ssh-ed25519 " + strings.Repeat("A", 68)}}
	check("again", "phone-home", forged.Encode(), http.StatusOK)
	check("again", "progress", done, http.StatusNoContent)
	last := h.awaitMachine("phone-home", func(m netbootapi.MachineState) bool { return m.PhoneHome != nil })
	if !last.Install.DoneAt.Equal(first.Install.DoneAt) || last.Install.Error != "" {
		t.Errorf("got installation %+v, want %+v", last.Install, first.Install)
	}
	if last.PhoneHome.Hostname != "target-1" || len(last.PhoneHome.HostKeys) != 1 || last.PhoneHome.HostKeys[0] != hostKey {
		t.Errorf("got phone-home %+v, want the first", last.PhoneHome)
	}
}

// The boot secret is in no answer, and opens nothing, once the installer is done; the seed
// secret opens nothing once the machine has phoned home.
func TestSecretsEnd(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	h.up(config)
	m := machineConfig()
	ended := func(when string, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if got := h.get(path); got.status != http.StatusNotFound {
				t.Errorf("%s %s: got %d %s, want 404", path, when, got.status, got.body)
			}
		}
	}
	boot := []string{filePlan, "kernel", "initrd", "overlay", fileImage, "ipxe-error?step=x&code=1"}
	seed := []string{"ci/meta-data", "ci/user-data", "ci/vendor-data", "ci/network-config"}
	h.install()
	h.restartKilled()
	ended("after the installation", boot...)
	// All that a network boot is given now.
	script := h.boot(m.MAC, iana.EFI_X86_64, true)
	autoexec, err := h.tftp(machineAddress, ipxe.AutoexecName)
	if err != nil {
		t.Fatal(err)
	}
	program := "http://" + h.service(serviceHTTP) + "/program/"
	for what, text := range map[string]string{
		"DHCP": script, "TFTP": string(autoexec),
		"HTTP":        h.do(machineAddress, http.MethodGet, program+ipxe.AutoexecName, "", nil).body,
		"the script":  h.do(machineAddress, http.MethodGet, script, "", nil).body,
		"the old URL": h.get(fileScript).body,
	} {
		if text == "" || strings.Contains(text, m.Token) || strings.Contains(text, m.SeedToken) {
			t.Errorf("%s: got %q, want a text without a secret", what, text)
		}
	}
	if got := h.do("127.0.0.12", http.MethodGet, script, "", nil); got.status != http.StatusNotFound {
		t.Errorf("the script for an unknown client: got %d %s, want 404", got.status, got.body)
	}
	for _, path := range seed {
		if got := h.get(path); got.status != http.StatusOK || strings.Contains(got.body, m.Token) {
			t.Errorf("%s: got %d %s, want 200 and a text without the boot secret", path, got.status, got.body)
		}
	}
	h.post("phone-home", phoneHomeForm("target-1-a1"))
	h.restartKilled()
	ended("after phone-home", seed...)
	h.await("the refusals", func(s observed) bool { return s.Refused["HTTPEndedToken"] > 0 })
	// cloud-init reports the end of its run after that, and each later one.
	if got := h.post("cloud-init", `{"name": "modules-final", "event_type": "finish", "result": "SUCCESS"}`); got.status != http.StatusNoContent {
		t.Errorf("the last stage: got %d %s, want 204", got.status, got.body)
	}
}

// A netbootd that has lost its observations learns from the manager which secrets ended.
func TestSeedStaysEnded(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].Boot = netbootapi.BootDisk
	config.Machines[0].SeedEnded = true
	h.up(config)
	if got := h.get("ci/user-data"); got.status != http.StatusNotFound {
		t.Errorf("user-data: got %d %s, want 404", got.status, got.body)
	}
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusOK {
		t.Errorf("phone-home: got %d %s, want 200", got.status, got.body)
	}
	if _, state := h.server.state.machine("uid-1"); state.PhoneHome != nil {
		t.Errorf("got phone-home %+v, want none", state.PhoneHome)
	}
}

func TestRedactShowsNoControls(t *testing.T) {
	m := machineConfig()
	text := "a\x1b[2J\u009b2J\u202eb\nGet /m/" + m.Token + "/image and /m/" + m.SeedToken + "/ci é"
	if got, want := redact(&m, text), "a?[2J?2J?b Get /m/TOKEN/image and /m/TOKEN/ci é"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	m.SeedToken = ""
	if got := redact(&m, "x"); got != "x" {
		t.Errorf("without a seed secret: got %q, want \"x\"", got)
	}
}
