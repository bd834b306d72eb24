// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// kill ends the server as SIGKILL would: what it had not saved before is lost.
func (h *harness) kill() {
	h.t.Helper()
	copied := filepath.Join(h.t.TempDir(), "state")
	if err := os.CopyFS(copied, os.DirFS(h.options.StateDir)); err != nil {
		h.t.Fatal(err)
	}
	h.stop()
	if err := os.RemoveAll(h.options.StateDir); err != nil {
		h.t.Fatal(err)
	}
	h.options.StateDir = copied
}

// fetch gets a file of a machine.
func (h *harness) fetch(m *netbootapi.Machine, path string) answer {
	h.t.Helper()
	token := m.Token
	if strings.HasPrefix(path, "ci/") {
		token = m.SeedToken
	}
	url := "http://" + h.service(serviceHTTP) + "/m/" + token + "/" + path
	return h.do(m.Address.String(), http.MethodGet, url, "", nil)
}

// withEpoch returns a client of a manager with an epoch.
func (h *harness) withEpoch(epoch int64) *netbootapi.Client {
	h.t.Helper()
	o := h.clientOptions
	o.Epoch = epoch
	c, err := netbootapi.New(o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

// A machine that is refused, or has bytes that are not text, affects no other.
func TestMachinesAreIndependent(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	refused := anotherMachine(1)
	refused.Hostname = "-"
	if err := h.client.PutMachine(t.Context(), refused.UID, entryOf(&refused)); !errors.Is(err, netbootapi.ErrInvalid) {
		t.Errorf("an invalid machine: got error %v, want %v", err, netbootapi.ErrInvalid)
	}
	odd := anotherMachine(2)
	e := entryOf(&odd)
	e.Content = bytes.Replace(e.Content, []byte(`"name":"other-2"`), []byte("\"name\" : \"other\xff\xfe\\ud800\""), 1)
	h.whole(func() error { return h.client.PutMachine(t.Context(), odd.UID, e) })
	last := anotherMachine(3)
	h.put(&last)
	for range 2 {
		state := h.await("the digest of the bytes", func(s observed) bool { return s.Machines[odd.UID].Content == netbootapi.Digest(e.Content) })
		if _, there := state.Machines[refused.UID]; there {
			t.Errorf("got a state of the refused machine, want none")
		}
		for _, m := range []netbootapi.Machine{machineConfig(), odd, last} {
			if file := h.boot(m.MAC, iana.EFI_X86_64, false); file != "ipxe.efi" {
				t.Errorf("%s: got boot file %q, want ipxe.efi", m.UID, file)
			}
			if got := h.fetch(&m, "ci/user-data"); got.status != http.StatusOK || !strings.Contains(got.body, m.Hostname) {
				t.Errorf("%s: got %d %s, want its user-data", m.UID, got.status, got.body)
			}
		}
		h.stop()
		h.start()
		h.awaitServices()
	}
}

// Large texts of one machine do not affect others: no message contains them together.
func TestManyMachinesWithLargeTexts(t *testing.T) {
	h := newHarness(t)
	c := labConfig()
	c.Machines = nil
	h.push(c)
	userData := func(n byte) string {
		return fmt.Sprintf("#cloud-config\n# %d %s\n", n, strings.Repeat(string('a'+rune(n%26)), 257_000))
	}
	const machines = 40
	for n := range byte(machines) {
		m := anotherMachine(n + 1)
		m.UserDataTemplate = textOf(userData(n))
		h.put(&m)
	}
	h.awaitServices()
	for n := range byte(machines) {
		m := anotherMachine(n + 1)
		if got := h.fetch(&m, "ci/user-data"); got.status != http.StatusOK || !strings.Contains(got.body, strings.TrimSpace(userData(n))) {
			t.Errorf("%s: got status %d and %d bytes, want its user-data", m.UID, got.status, len(got.body))
		}
	}
}

func TestInstallationKeepsContentAcrossAKill(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	if got := h.get("plan"); got.status != http.StatusOK {
		t.Fatalf("plan: got %d %s, want 200", got.status, got.body)
	}
	edited := machineConfig()
	edited.Hostname = "edited"
	edited.BootConfirmed = "a1"
	h.put(&edited)
	check := func(when, hostname string, installing bool) {
		t.Helper()
		m := h.awaitMachine(when, func(m netbootapi.MachineState) bool { return m.Installing == installing })
		served := machineConfig()
		served.Hostname = hostname
		if want := entryOf(&served).ContentDigest(); m.Content != want || m.Control != entryOf(&edited).ControlDigest() {
			t.Errorf("%s: got content %s and control %s, want those of %s and the new control", when, m.Content, m.Control, hostname)
		}
		if got := h.get("ci/meta-data"); installing && !strings.Contains(got.body, hostname) {
			t.Errorf("%s: got meta-data %q, want %s", when, got.body, hostname)
		}
	}
	check("while installing", "target-1", true)
	h.kill()
	h.start()
	h.awaitServices()
	check("after a kill", "target-1", true)
	h.put(&edited)
	check("put again while installing", "target-1", true)
	h.install()
	check("installed", "target-1", true)
	if got := h.post("phone-home", phoneHomeForm("target-1-a1")); got.status != http.StatusOK {
		t.Fatalf("phone-home: got %d %s, want 200", got.status, got.body)
	}
	h.kill()
	h.start()
	h.awaitServices()
	check("phoned home, after a kill", "target-1", false)
	h.put(&edited)
	check("put again", "edited", false)
}

// blobFiles returns the names of the stored blobs.
func (h *harness) blobFiles() []string {
	h.t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.options.StateDir, "blobs"))
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The installer is served the image of its plan to the end, also if its machine requested
// the plan before its power-on was put and another content follows.
func TestImageOfAnInstallationIsNotRemoved(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].PowerOn = ""
	h.up(config)
	if got := h.get("plan"); got.status != http.StatusOK {
		t.Fatalf("plan: got %d %s, want 200", got.status, got.body)
	}
	h.server.blobs.mu.Lock()
	h.server.blobs.grace = time.Nanosecond
	h.server.blobs.mu.Unlock()
	edited := config.Machines[0]
	edited.Image = blobOf("overlay")
	edited.ImagePin = edited.Image.Digest
	for _, powerOn := range []string{"", "p1"} {
		edited.PowerOn = powerOn
		h.put(&edited)
		if err := h.server.blobs.sweep(); err != nil {
			t.Fatal(err)
		}
		if got := h.get("image"); got.status != http.StatusOK || got.body != string(contents["image"]) {
			t.Errorf("image after another content with power-on %q: got status %d and %d bytes, want the plan's", powerOn, got.status, len(got.body))
		}
	}
}

// A machine whose entry and text a damaged disk has lost is accepted once its text was
// uploaded again, whatever is left of it.
func TestDamagedTextIsUploadedAgain(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	m := machineConfig()
	path := h.server.blobs.path(m.UserDataTemplate.Digest)
	h.stop()
	if err := os.WriteFile(filepath.Join(h.options.StateDir, entryFile(m.UID)), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.awaitServices()
	err := h.client.PutMachine(t.Context(), m.UID, entryOf(&m))
	missing := (*netbootapi.MissingError)(nil)
	if !errors.As(err, &missing) || len(missing.Blobs) != 1 || missing.Blobs[0] != m.UserDataTemplate {
		t.Fatalf("with a damaged text: got error %v, want %s missing", err, m.UserDataTemplate.Digest)
	}
	h.put(&m)
	// While netbootd runs, a text that is damaged is noticed when it is read.
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if got := h.get("ci/user-data"); got.status != http.StatusServiceUnavailable {
		t.Errorf("a damaged text: got %d %s, want 503", got.status, got.body)
	}
	h.awaitMachine("the missing text", func(m netbootapi.MachineState) bool { return len(m.MissingBlobs) == 1 })
	m.Attempt, m.PowerOn, m.Token = "a2", "p2", "another-token-0123456789"
	control := netbootapi.NewEntry(nil, m.Control)
	h.whole(func() error { return h.client.PutMachine(t.Context(), m.UID, control) })
	if got := h.fetch(&m, "ci/user-data"); got.status != http.StatusOK || !strings.Contains(got.body, "hostname: target-1") {
		t.Errorf("with the text again: got %d %s, want 200 and the user-data", got.status, got.body)
	}
}

// An entry that names the earlier content again needs no upload.
func TestReplacedContentIsKeptForAWhile(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	all := len(h.blobFiles())
	edited := machineConfig()
	edited.Image = blobOf("overlay")
	edited.UserDataTemplate = netbootapi.Blob{}
	h.put(&edited)
	if err := h.client.DeleteMachine(t.Context(), edited.UID); err != nil {
		t.Fatal(err)
	}
	if err := h.server.blobs.sweep(); err != nil {
		t.Fatal(err)
	}
	if got := h.blobFiles(); len(got) != all {
		t.Errorf("got blobs %v, want all %d", got, all)
	}
	m := machineConfig()
	if err := h.client.PutMachine(t.Context(), m.UID, entryOf(&m)); err != nil {
		t.Errorf("the earlier entry: got error %v, want none", err)
	}
}

func TestUnneededContentIsRemoved(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	h.server.blobs.mu.Lock()
	h.server.blobs.grace = time.Nanosecond
	h.server.blobs.mu.Unlock()
	// The blobs that an installed machine names are kept.
	m := &config.Machines[0]
	m.Boot = netbootapi.BootDisk
	h.push(config)
	if err := h.server.blobs.sweep(); err != nil {
		t.Fatal(err)
	}
	if got := h.blobFiles(); len(got) != 7 {
		t.Errorf("got blobs %v; want the five files and two texts", got)
	}
	for _, blob := range []*netbootapi.Blob{&m.Kernel, &m.Initrd, &m.Overlay, &m.Image, &m.UserDataTemplate, &m.SSHAuthorizedKeys} {
		*blob = netbootapi.Blob{}
	}
	h.push(config)
	if err := h.server.blobs.sweep(); err != nil {
		t.Fatal(err)
	}
	if got := h.blobFiles(); len(got) != 1 {
		t.Errorf("got blobs %v; want the program only", got)
	}
}

func TestOlderManagerIsFenced(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Programs = nil
	h.push(config)
	older, newer := h.withEpoch(1), h.withEpoch(2)
	for _, c := range []*netbootapi.Client{older, newer} {
		if err := c.PutServer(t.Context(), config.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for name, request := range map[string]func() error{
			"PutServer":     func() error { return older.PutServer(t.Context(), config.Encode()) },
			"DeleteMachine": func() error { return older.DeleteMachine(t.Context(), "uid-1") },
			"UploadBlob": func() error {
				return older.UploadBlob(t.Context(), blobOf("program"), bytes.NewReader(contents["program"]), nil)
			},
			"no epoch": func() error { return h.client.DeleteMachine(t.Context(), "uid-1") },
		} {
			if err := request(); !errors.Is(err, netbootapi.ErrFenced) {
				t.Errorf("%s: got error %v, want %v", name, err, netbootapi.ErrFenced)
			}
		}
		if _, err := older.Observe(t.Context()); err != nil {
			t.Errorf("Observe: got error %v, want none", err)
		}
		h.kill()
		h.start()
		older.Close()
		newer.Close()
	}
	if err := newer.PutServer(t.Context(), config.Encode()); err != nil {
		t.Errorf("the newer manager: got error %v, want none", err)
	}
}

func TestWatchContinuesAtItsPosition(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	for n := range byte(20) {
		config.Machines = append(config.Machines, anotherMachine(n+1))
	}
	h.up(config)
	observe := func(after netbootapi.Position) (got netbootapi.Update) {
		t.Helper()
		stop := errors.New("stop")
		err := h.client.Watch(t.Context(), after, func(u netbootapi.Update) error {
			got = u
			return stop
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		return got
	}
	before := observe(netbootapi.Position{})
	if !before.Snapshot || len(before.Machines) != 21 {
		t.Fatalf("got snapshot %t of %d machines, want one of 21", before.Snapshot, len(before.Machines))
	}
	if err := h.client.DeleteMachine(t.Context(), "other-3"); err != nil {
		t.Fatal(err)
	}
	h.get("boot.ipxe")
	u := observe(before.Position)
	if _, gone := u.Machines["other-3"]; u.Snapshot || len(u.Machines) != 2 || !gone || u.Machines["uid-1"] == nil {
		t.Errorf("resumed: got %+v, want uid-1 and the removal of other-3", u)
	}
	h.stop()
	h.start()
	if u := observe(u.Position); !u.Snapshot || len(u.Machines) != 20 {
		t.Errorf("after a restart: got snapshot %t of %d machines, want one of 20", u.Snapshot, len(u.Machines))
	}
}

// A machine that is removed while the services do not run has no lease afterwards.
func TestRemovedMachineLosesSavedLease(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	h.await("the lease", func(s observed) bool { return len(s.Leases) == 1 })
	h.stop()
	works := h.options.SetUpLink
	h.options.SetUpLink = func(*netbootapi.Network) (string, error) { return "", errors.New("no link") }
	h.start()
	h.await("services that fail", func(s observed) bool { return s.Services[serviceDHCP].Error != "" && len(s.Leases) == 1 })
	if err := h.client.DeleteMachine(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	h.await("no lease", func(s observed) bool { return len(s.Leases) == 0 })
	h.stop()
	h.options.SetUpLink = works
	h.start()
	h.awaitServices()
	if state, _ := h.server.state.observe(); len(state.Leases) != 0 || len(state.Machines) != 0 {
		t.Errorf("after a restart: got leases %+v and machines %+v, want none", state.Leases, state.Machines)
	}
}

func TestDamagedFileAffectsItsMachineOnly(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines = append(config.Machines, anotherMachine(1), anotherMachine(2))
	h.up(config)
	for _, m := range config.Machines {
		h.fetch(&m, "boot.ipxe")
	}
	h.await("all scripts", func(s observed) bool {
		return !s.Machines["uid-1"].ScriptAt.IsZero() && !s.Machines["other-1"].ScriptAt.IsZero() && !s.Machines["other-2"].ScriptAt.IsZero()
	})
	h.stop()
	for _, name := range []string{entryFile("other-1"), observedFile("other-2")} {
		if err := os.WriteFile(filepath.Join(h.options.StateDir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	h.awaitServices()
	state, _ := h.server.state.observe()
	if _, there := state.Machines["other-1"]; there || len(state.Machines) != 2 {
		t.Errorf("got machines %+v, want those without a damaged entry", state.Machines)
	}
	if state.Machines["uid-1"].ScriptAt.IsZero() || !state.Machines["other-2"].ScriptAt.IsZero() {
		t.Errorf("got machines %+v, want the observations that are not damaged", state.Machines)
	}
	for _, name := range []string{entryFile("other-1"), observedFile("other-2")} {
		if _, err := os.Stat(filepath.Join(h.options.StateDir, name+".damaged")); err != nil {
			t.Error(err)
		}
	}
	for _, m := range []netbootapi.Machine{machineConfig(), anotherMachine(2)} {
		if got := h.fetch(&m, "kernel"); got.status != http.StatusOK {
			t.Errorf("%s: got status %d, want 200", m.UID, got.status)
		}
	}
	lost := anotherMachine(1)
	h.put(&lost)
}

func TestMachineOutsideTheNetworkIsNotServed(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].Boot = netbootapi.BootDisk
	inside := anotherMachine(1)
	config.Machines = append(config.Machines, inside)
	h.up(config)
	h.boot(machineConfig().MAC, iana.EFI_X86_64, false)
	h.await("the lease", func(s observed) bool { return len(s.Leases) == 1 })
	network := config.Network
	config.Network.Address = netip.MustParsePrefix("127.0.1.254/24")
	config.Network.RangeStart = netip.MustParseAddr("127.0.1.100")
	config.Network.RangeEnd = netip.MustParseAddr("127.0.1.109")
	if err := h.client.PutServer(t.Context(), config.Encode()); err != nil {
		t.Fatal(err)
	}
	h.await("the problem of one machine", func(s observed) bool {
		return strings.Contains(s.Machines["uid-1"].Problem, "address") && s.Machines[inside.UID].Problem == "" && len(s.Leases) == 0
	})
	h.await("the new network", func(s observed) bool { return strings.HasPrefix(s.Services[serviceHTTP].Address, "127.0.1.254:") })
	h.awaitServices()
	if got := h.get("boot.ipxe"); got.status != http.StatusNotFound {
		t.Errorf("outside the network: got status %d, want 404", got.status)
	}
	if got := h.fetch(&inside, "boot.ipxe"); got.status != http.StatusOK {
		t.Errorf("inside the network: got status %d, want 200", got.status)
	}
	config.Network = network
	if err := h.client.PutServer(t.Context(), config.Encode()); err != nil {
		t.Fatal(err)
	}
	h.awaitMachine("no problem", func(m netbootapi.MachineState) bool { return m.Problem == "" })
	h.await("the old network", func(s observed) bool { return strings.HasPrefix(s.Services[serviceHTTP].Address, "127.0.0.1:") })
	h.awaitServices()
	if got := h.get("boot.ipxe"); got.status != http.StatusOK {
		t.Errorf("back in the network: got status %d, want 200", got.status)
	}
}

// A report that the answer confirms is saved before, and costs one file.
func TestConfirmedReportIsSavedAlone(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	config.Machines[0].BootConfirmed = "a1"
	config.Machines = append(config.Machines, anotherMachine(1))
	h.up(config)
	h.stop() // saves everything
	h.start()
	h.awaitServices()
	other := filepath.Join(h.options.StateDir, observedFile(config.Machines[1].UID))
	before, err := os.Stat(other)
	if err != nil {
		t.Fatal(err)
	}
	h.get("plan")
	h.get("image")
	for _, r := range []struct{ path, body, saved string }{
		{"progress", report("a1", "Done", 1_000_000), "doneAt"}, {"phone-home", phoneHomeForm("target-1-a1"), "phoneHome"},
	} {
		if got := h.post(r.path, r.body); got.status/100 != 2 {
			t.Fatalf("%s: got %d %s, want success", r.path, got.status, got.body)
		}
		raw, err := os.ReadFile(filepath.Join(h.options.StateDir, observedFile("uid-1")))
		if err != nil || !bytes.Contains(raw, []byte(r.saved)) {
			t.Errorf("%s: got %q, error %v; want %s saved", r.path, raw, err, r.saved)
		}
	}
	after, err := os.Stat(other)
	if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the other machine's file: got it replaced, error %v; want it as before", err)
	}
}

// Texts that were uploaded under another key have other addresses.
func TestAnotherTextKeyNeedsTheTextsAgain(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	h.up(config)
	config.TextKey = []byte("another key of the texts")
	if err := h.client.PutServer(t.Context(), config.Encode()); err != nil {
		t.Fatal(err)
	}
	const text = "#cloud-config\n"
	m := machineConfig()
	m.UserDataTemplate = netbootapi.TextBlob(config.TextKey, text)
	if err := h.client.PutMachine(t.Context(), m.UID, entryOf(&m)); !errors.Is(err, netbootapi.ErrMissing) {
		t.Errorf("before the upload: got error %v, want %v", err, netbootapi.ErrMissing)
	}
	old := netbootapi.TextBlob(textKey, text)
	if err := h.client.UploadBlob(t.Context(), old, strings.NewReader(text), nil); !errors.Is(err, netbootapi.ErrDigest) {
		t.Errorf("upload under the old key: got error %v, want %v", err, netbootapi.ErrDigest)
	}
	if err := h.client.UploadBlob(t.Context(), m.UserDataTemplate, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	h.put(&m)
}
