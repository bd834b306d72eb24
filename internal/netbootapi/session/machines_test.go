// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/netbootdtest"
)

// started returns a Hub that is connected to a netbootd with a config in force.
func started(t *testing.T, o netbootdtest.Options, edit ...func(*Options)) (*Hub, *watcher, *netbootdtest.Server) {
	t.Helper()
	h, w := newHub(t, edit...)
	server := netbootdtest.Start(t, o)
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	w.until(t, h, "in force", inForce)
	return h, w, server
}

func TestRefusedMachineLeavesOthersInForce(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	invalid, failing, waiting := newMachine(100), newMachine(101), newMachine(102)
	invalid.Content.Hostname = "a_b"
	server.RefuseMachine("failing", errors.New("disk full"))
	text := userData(&waiting, "#cloud-config")
	clear(waiting.Texts)
	h.PutMachine("s", "invalid", invalid)
	h.PutMachine("s", "failing", failing)
	h.PutMachine("s", "waiting", waiting)
	for n := range 20 {
		h.PutMachine("s", uidOf(n), newMachine(n))
	}
	for n := range 20 {
		w.untilMachine(t, h, uidOf(n), "in force", machineInForce)
		if got := server.MachinePuts(uidOf(n)); got != 1 {
			t.Errorf("%s: got %d entries, want 1", uidOf(n), got)
		}
	}
	w.untilMachine(t, h, "invalid", "refused", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrInvalid) })
	w.untilMachine(t, h, "failing", "failed", func(m Machine) bool {
		return m.Error != nil && strings.Contains(m.Error.Error(), "disk full")
	})
	m := w.untilMachine(t, h, "waiting", "unavailable", func(m Machine) bool { return m.Error != nil })
	if want := "content " + text.Digest + " is not available here"; m.Error.Error() != want || m.Pending != 1 {
		t.Errorf("waiting: got error %v and %d pending, want %q and 1", m.Error, m.Pending, want)
	}

	invalid = newMachine(100)
	h.PutMachine("s", "invalid", invalid)
	server.RefuseMachine("failing", nil)
	userData(&waiting, "#cloud-config")
	h.PutMachine("s", "waiting", waiting)
	for _, uid := range []string{"invalid", "failing", "waiting"} {
		if m := w.untilMachine(t, h, uid, "in force", machineInForce); m.Error != nil || m.Pending != 0 {
			t.Errorf("%s: got error %v and %d pending, want none", uid, m.Error, m.Pending)
		}
	}
	if got, ok := server.Text(text.Digest); !ok || got != "#cloud-config" {
		t.Errorf("got text %q, %v; want all of it", got, ok)
	}
}

// An invalid entry is not put again, whatever else changes.
func TestInvalidMachineIsPutOnce(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	server.RefuseMachine("m", netbootapi.ErrInvalid)
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "refused", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrInvalid) })
	server.RefuseMachine("m", nil)
	h.PutMachine("s", "m", newMachine(1))
	h.PutMachine("s", "other", newMachine(2))
	w.untilMachine(t, h, "other", "in force", machineInForce)
	if n := server.MachinePuts("m"); n != 0 {
		t.Errorf("entries of the refused machine: got %d, want none", n)
	}
}

// A lost text that is not here is an error, also after an equal entry was put.
func TestLostTextIsReported(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	text := userData(&d, "#cloud-config")
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	h.Close()
	h, w = newHub(t)
	clear(d.Texts)
	h.PutMachine("s", "m", d)
	connect(t, h, server)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	server.Lose(text.Digest)
	m := w.untilMachine(t, h, "m", "the loss", func(m Machine) bool { return m.Error != nil })
	if !strings.Contains(m.Error.Error(), text.Digest) || !m.InForce {
		t.Errorf("got %+v, want the entry in force and an error about %s", m, text.Digest)
	}
	userData(&d, "#cloud-config")
	h.PutMachine("s", "m", d)
	if m := w.untilMachine(t, h, "m", "its repair", func(m Machine) bool { return m.Error == nil && m.Pending == 0 }); !m.InForce {
		t.Errorf("got %+v, want the entry in force", m)
	}
	if _, whole := server.Text(text.Digest); !whole || server.MachinePuts("m") != 1 {
		t.Errorf("got the text %v after %d entries, want it after 1", whole, server.MachinePuts("m"))
	}
}

// A control part alone is accepted once the text that netbootd has lost was sent again.
func TestControlPartAfterALoss(t *testing.T) {
	image, path := blob(t, []byte("image"))
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	installs(&d, image, path)
	text := userData(&d, "#cloud-config")
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	h.Close()
	server.Lose(text.Digest)
	h, w = newHub(t) // of a manager that does not have the content
	next := Desired{Control: d.Control, Texts: d.Texts}
	next.Control.Attempt, next.Control.PowerOn = "2", "on"
	connect(t, h, server)
	h.PutMachine("s", "m", next)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	got, _ := server.Machine("m")
	if _, whole := server.Text(text.Digest); !whole || got.Attempt != "2" || got.Image != image {
		t.Errorf("got the text %t and machine %+v, want the text and the new attempt of the same content", whole, got)
	}
}

// Content that is not here may reach netbootd in another way.
func TestContentOfAnotherManager(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	text := userData(&d, "#cloud-config")
	clear(d.Texts)
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "unavailable", func(m Machine) bool { return m.Error != nil })
	other, otherWatcher := newHub(t)
	connect(t, other, server)
	next := newMachine(2)
	if got := userData(&next, "#cloud-config"); got != text {
		t.Fatalf("got text %+v, want %+v", got, text)
	}
	other.PutMachine("s", "other", next)
	otherWatcher.untilMachine(t, other, "other", "in force", machineInForce)
	if m := w.untilMachine(t, h, "m", "in force", machineInForce); m.Error != nil || m.Pending != 0 {
		t.Errorf("got error %v and %d pending, want none", m.Error, m.Pending)
	}
}

// Two machines that exchange their addresses conflict until one has given up its own.
func TestConflictIsTriedAgain(t *testing.T) {
	h, w, _ := started(t, netbootdtest.Options{})
	a, b, next := newMachine(1), newMachine(2), newMachine(2)
	h.PutMachine("s", "a", a)
	h.PutMachine("s", "b", b)
	w.untilMachine(t, h, "b", "in force", machineInForce)
	w.untilMachine(t, h, "a", "in force", machineInForce)
	next.Control.Token = a.Control.Token
	h.PutMachine("s", "a", next)
	w.untilMachine(t, h, "a", "in conflict", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrConflict) })
	h.PutMachine("s", "b", newMachine(3))
	w.untilMachine(t, h, "b", "in force", machineInForce)
	if m := w.untilMachine(t, h, "a", "in force", machineInForce); m.Error != nil {
		t.Errorf("got error %v, want none", m.Error)
	}
}

func TestMachineIsPutWhenItChanges(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	for range 3 {
		h.PutMachine("s", "m", d)
	}
	w.untilMachine(t, h, "m", "in force", machineInForce)
	h.PutMachine("s", "m", newMachine(1))
	if n := server.MachinePuts("m"); n != 1 {
		t.Errorf("equal entries: got %d requests, want 1", n)
	}
	// The control part alone, with the content that netbootd has.
	keep := Desired{Control: d.Control}
	keep.Control.PowerOn = "on"
	h.PutMachine("s", "m", keep)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	got, _ := server.Machine("m")
	if got.PowerOn != "on" || got.Hostname != d.Content.Hostname {
		t.Errorf("got machine %+v, want the new power-on and the content kept", got)
	}
	// The last of many values.
	for n := range 30 {
		next := newMachine(1)
		next.Control.PowerOn = uidOf(n)
		h.PutMachine("s", "m", next)
	}
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if got, _ := server.Machine("m"); got.PowerOn != uidOf(29) {
		t.Errorf("got power-on %q, want the last", got.PowerOn)
	}
}

// An entry without a content of a machine that netbootd does not have is reported.
func TestNothingToKeepIsReported(t *testing.T) {
	h, w, _ := started(t, netbootdtest.Options{})
	h.PutMachine("s", "m", Desired{Control: newMachine(1).Control})
	w.untilMachine(t, h, "m", "refused", func(m Machine) bool { return errors.Is(m.Error, netbootapi.ErrNoContent) })
	h.PutMachine("s", "m", newMachine(1))
	w.untilMachine(t, h, "m", "in force", machineInForce)
}

// While an installation is in progress its content is kept: control parts are put
// without waiting for the next content, which is put afterwards.
func TestContentIsKeptWhileInstalling(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	image, path := blob(t, []byte("image"))
	d := newMachine(1)
	installs(&d, image, path)
	d.Control.PowerOn = "on"
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	server.UpdateMachine("m", func(m *netbootapi.MachineState) { m.ProfileDigest = "p" })
	w.untilMachine(t, h, "m", "installing", func(m Machine) bool { return m.State.Installing })

	// A content alone is not put.
	other, _ := blob(t, []byte("another image, which is not here"))
	next := newMachine(1)
	installs(&next, other, "")
	clear(next.Files)
	next.Control = d.Control
	h.PutMachine("s", "m", next)
	if m := h.ObserveMachine("s", "m"); !m.InForce || m.Error != nil {
		t.Errorf("another content while installing: got %+v, want what can be in force", m)
	}
	if got := h.Content(); len(got) != 1 || got[0] != image.Digest {
		t.Errorf("files that are needed: got %v, want that of the content kept", got)
	}
	// Nor is a control part delayed by it.
	next.Control.BootConfirmed = "1"
	h.PutMachine("s", "m", next)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	got, _ := server.Machine("m")
	if got.BootConfirmed != "1" || got.Image != image || server.MachinePuts("m") != 2 {
		t.Errorf("got %+v after %d requests, want the boot confirmed with the first image after 2", got, server.MachinePuts("m"))
	}
	// What is lost of the content kept can be supplied.
	server.Lose(image.Digest)
	w.untilMachine(t, h, "m", "uploaded again", func(m Machine) bool {
		_, whole := server.Blob(image.Digest)
		return whole && len(m.State.MissingBlobs) == 0
	})

	server.UpdateMachine("m", func(m *netbootapi.MachineState) { m.PhoneHome = &netbootapi.PhoneHome{Hostname: "m"} })
	w.untilMachine(t, h, "m", "the end of the installation", func(m Machine) bool { return !m.InForce && m.Error != nil })
	final := newMachine(1)
	installs(&final, other, path)
	final.Control = next.Control
	writeFile(t, path, "another image, which is not here")
	h.PutMachine("s", "m", final)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if got, _ := server.Machine("m"); got.Image != other {
		t.Errorf("got image %+v, want %+v", got.Image, other)
	}
}

// A new attempt ends the installation, so that its content is adopted with it.
func TestNewAttemptReplacesTheContent(t *testing.T) {
	h, w, server := started(t, netbootdtest.Options{})
	d := newMachine(1)
	d.Control.PowerOn = "on"
	h.PutMachine("s", "m", d)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	server.UpdateMachine("m", func(m *netbootapi.MachineState) { m.ProfileDigest = "p" })
	w.untilMachine(t, h, "m", "installing", func(m Machine) bool { return m.State.Installing })
	next := newMachine(1)
	next.Content.Hostname = "next"
	next.Control.Attempt = "2"
	h.PutMachine("s", "m", next)
	w.untilMachine(t, h, "m", "in force", machineInForce)
	if got, _ := server.Machine("m"); got.Hostname != "next" || server.MachinePuts("m") != 2 {
		t.Errorf("got host name %q after %d requests, want the next one after 2", got.Hostname, server.MachinePuts("m"))
	}
}

// A new manager that desires what netbootd has puts nothing.
func TestRestartedManagerPutsNothing(t *testing.T) {
	image, path := blob(t, []byte("image"))
	desired := func(n int) Desired {
		d := newMachine(n)
		installs(&d, image, path)
		userData(&d, "#cloud-config")
		return d
	}
	first, w, server := started(t, netbootdtest.Options{})
	for n := range 10 {
		first.PutMachine("s", uidOf(n), desired(n))
	}
	for n := range 10 {
		w.untilMachine(t, first, uidOf(n), "in force", machineInForce)
	}
	first.Close()
	h, w := newHub(t)
	connect(t, h, server)
	h.PutServer("s", newConfig(60), nil)
	for n := range 10 {
		h.PutMachine("s", uidOf(n), desired(n))
	}
	for n := range 10 {
		w.untilMachine(t, h, uidOf(n), "in force", machineInForce)
	}
	server.Update(func(s *netbootapi.State) { s.Version = "next" })
	w.until(t, h, "the version", func(o Observation) bool { return o.State.Version == "next" })
	for n := range 10 {
		if got := server.MachinePuts(uidOf(n)); got != 1 {
			t.Errorf("%s: got %d requests of both managers, want 1", uidOf(n), got)
		}
	}
	if got := server.ServerPuts(); got != 1 {
		t.Errorf("configs: got %d requests of both managers, want 1", got)
	}
}

// The next content is uploaded while another one is kept: a disk is wiped for it only when
// netbootd has all of it.
func TestNextContentIsUploadedWhileInstalling(t *testing.T) {
	image, path := blob(t, []byte("image"))
	other, otherPath := blob(t, []byte("another image"))
	g := newGate(other.Digest)
	h, w, server := started(t, netbootdtest.Options{Upload: g.upload})
	d := newMachine(1)
	installs(&d, image, path)
	d.Content.ProfileDigest = "first"
	d.Control.PowerOn = "on"
	h.PutMachine("s", "m", d)
	if m := w.untilMachine(t, h, "m", "in force", machineInForce); m.Profile != "first" {
		t.Errorf("got profile %q, want the first", m.Profile)
	}
	server.UpdateMachine("m", func(m *netbootapi.MachineState) { m.ProfileDigest = "first" })
	w.untilMachine(t, h, "m", "installing", func(m Machine) bool { return m.State.Installing })

	next := newMachine(1)
	installs(&next, other, otherPath)
	next.Content.ProfileDigest = "next"
	next.Control = d.Control
	text := userData(&next, "#cloud-config")
	h.PutMachine("s", "m", next)
	<-g.begun
	if m := h.ObserveMachine("s", "m"); !m.InForce || m.Profile != "" || m.Pending == 0 {
		t.Errorf("during the upload: got %+v, want the entry in force, no profile and files pending", m)
	}
	close(g.release)
	w.untilMachine(t, h, "m", "all of it", func(m Machine) bool { return m.Profile == "next" && m.Pending == 0 && m.InForce })
	if _, whole := server.Text(text.Digest); !whole {
		t.Error("got no text, want it")
	}
	if got, _ := server.Machine("m"); got.Image != image {
		t.Errorf("got image %+v, want the content kept", got.Image)
	}
	// Only what another connection shows counts.
	server.Stop()
	w.until(t, h, "disconnected", func(o Observation) bool { return !o.Connected })
	netbootdtest.Start(t, netbootdtest.Options{Address: server.Address(), Credentials: server.Credentials(), Saved: server.Saved()})
	w.untilMachine(t, h, "m", "all of it again", func(m Machine) bool { return m.Connected && m.Profile == "next" && m.Pending == 0 })

	keep := Desired{Control: next.Control}
	h.PutMachine("s", "m", keep)
	if m := h.ObserveMachine("s", "m"); m.Profile != "" {
		t.Errorf("with nothing but a control part: got profile %q, want none", m.Profile)
	}
}
