// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func server() *netbootapi.ServerConfig {
	return &netbootapi.ServerConfig{
		Network: netbootapi.Network{
			MAC: "52:54:00:00:00:02", Address: netip.MustParsePrefix("10.9.0.1/16"),
			RangeStart: netip.MustParseAddr("10.9.200.1"), RangeEnd: netip.MustParseAddr("10.9.200.9"), LeaseSeconds: 600,
		},
		TextKey: []byte("0123456789abcdef"),
	}
}

func machine(n int) *netbootapi.Machine {
	return &netbootapi.Machine{
		UID: fmt.Sprintf("u%d", n),
		Content: netbootapi.Content{
			Name: fmt.Sprintf("target-%d", n), Hostname: fmt.Sprintf("target-%d", n), Architecture: "x86_64",
			MAC:     fmt.Sprintf("52:54:00:01:%02x:%02x", n/256, n%256),
			Address: netip.AddrFrom4([4]byte{10, 9, byte(1 + n/200), byte(10 + n%200)}),
		},
		Control: netbootapi.Control{
			Boot: netbootapi.BootDisk, Attempt: "1", InstanceID: "i", Token: fmt.Sprintf("0123456789012345678901-%d", n),
			SeedToken: fmt.Sprintf("seed-01234567890123456789-%d", n), PowerOn: "p1",
		},
	}
}

func entry(m *netbootapi.Machine) netbootapi.Entry { return netbootapi.NewEntry(&m.Content, m.Control) }

func put(t testing.TB, r *Registry, m *netbootapi.Machine) {
	t.Helper()
	a, err := r.CheckMachine(m.UID, entry(m))
	if err != nil {
		t.Fatal(err)
	}
	if !r.PutMachine(a) {
		t.Fatalf("PutMachine of %s: got false, want true", m.UID)
	}
}

// filled returns a registry with a server and n machines.
func filled(t testing.TB, n int) *Registry {
	t.Helper()
	r := New(netbootapi.State{})
	c := server()
	r.PutServer(c.Encode(), c)
	for i := range n {
		put(t, r, machine(i))
	}
	return r
}

func TestCheckMachine(t *testing.T) {
	file := func(c string) netbootapi.Blob {
		return netbootapi.Blob{Digest: "sha256:" + strings.Repeat(c, 64), Size: 1}
	}
	text := netbootapi.TextBlob(server().TextKey, "text")
	for name, c := range map[string]struct {
		edit    func(*netbootapi.Machine)
		stored  []netbootapi.Blob
		want    error
		missing []netbootapi.Blob
		text    string // part of the error
	}{
		"valid":     {edit: func(*netbootapi.Machine) {}},
		"invalid":   {edit: func(m *netbootapi.Machine) { m.Hostname = "" }, want: netbootapi.ErrInvalid, text: "hostname"},
		"MAC taken": {edit: func(m *netbootapi.Machine) { m.MAC = strings.ToUpper(machine(1).MAC) }, want: netbootapi.ErrConflict, text: "target-1"},
		"address taken": {
			edit: func(m *netbootapi.Machine) { m.Address = machine(1).Address }, want: netbootapi.ErrConflict, text: "target-1 (u1)",
		},
		"token taken":      {edit: func(m *netbootapi.Machine) { m.Token = machine(1).Token }, want: netbootapi.ErrConflict, text: "token"},
		"seed token taken": {edit: func(m *netbootapi.Machine) { m.SeedToken = machine(1).Token }, want: netbootapi.ErrConflict, text: "seed token"},
		"text missing": {
			edit: func(m *netbootapi.Machine) { m.UserDataTemplate, m.IPXETemplate = text, text }, missing: []netbootapi.Blob{text},
		},
		"text stored": {edit: func(m *netbootapi.Machine) { m.UserDataTemplate = text }, stored: []netbootapi.Blob{text}},
		"text damaged": {
			edit: func(m *netbootapi.Machine) { m.UserDataTemplate = text }, stored: []netbootapi.Blob{{Digest: text.Digest, Size: 9}},
			missing: []netbootapi.Blob{text},
		},
		"script of a disk boot missing": {edit: func(m *netbootapi.Machine) { m.IPXETemplate = text }},
		"files of a disk boot missing":  {edit: func(m *netbootapi.Machine) { m.Kernel = file("1") }},
		"files of an installation missing": {
			edit: func(m *netbootapi.Machine) {
				m.Boot, m.ImagePin, m.UserDataTemplate = netbootapi.BootInstall, file("4").Digest, text
				m.Kernel, m.Initrd, m.Overlay, m.Image = file("1"), file("2"), file("3"), file("4")
			},
			stored: []netbootapi.Blob{file("2")}, missing: []netbootapi.Blob{text, file("1"), file("3"), file("4")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := filled(t, 2)
			for _, b := range c.stored {
				r.Stored(b.Digest, b.Size)
			}
			m := machine(2)
			c.edit(m)
			_, err := r.CheckMachine(m.UID, entry(m))
			if missing := (*netbootapi.MissingError)(nil); errors.As(err, &missing) && c.missing != nil {
				if diff := cmp.Diff(c.missing, missing.Blobs); diff != "" {
					t.Errorf("missing (-want +got):\n%s", diff)
				}
				return
			}
			if !errors.Is(err, c.want) || c.missing != nil || (err != nil && !strings.Contains(err.Error(), c.text)) {
				t.Errorf("got error %v, want %v with %q, missing %v", err, c.want, c.text, c.missing)
			}
			if strings.Contains(fmt.Sprint(err), m.Token) {
				t.Errorf("got error %v, want none with the token", err)
			}
		})
	}
}

// A size other than that which another entry names, and which is stored, is wrong.
func TestWrongSizeIsInvalid(t *testing.T) {
	r := filled(t, 0)
	text := netbootapi.TextBlob(server().TextKey, "text")
	r.Stored(text.Digest, text.Size)
	right := machine(1)
	right.UserDataTemplate = text
	put(t, r, right)
	wrong := machine(2)
	wrong.UserDataTemplate = netbootapi.Blob{Digest: text.Digest, Size: text.Size + 1}
	if _, err := r.CheckMachine(wrong.UID, entry(wrong)); !errors.Is(err, netbootapi.ErrInvalid) || !strings.Contains(err.Error(), text.Digest) {
		t.Errorf("got error %v, want %v with %s", err, netbootapi.ErrInvalid, text.Digest)
	}
}

// A control part that needs a lost text is accepted once that was uploaded again; one that
// does not need it is accepted at once.
func TestControlPartAfterALoss(t *testing.T) {
	r := filled(t, 0)
	file := netbootapi.Blob{Digest: "sha256:" + strings.Repeat("1", 64), Size: 1}
	text := netbootapi.TextBlob(server().TextKey, "text")
	for _, b := range []netbootapi.Blob{file, text} {
		r.Stored(b.Digest, b.Size)
	}
	m := machine(1)
	m.Boot, m.ImagePin, m.UserDataTemplate = netbootapi.BootInstall, file.Digest, text
	m.Kernel, m.Initrd, m.Overlay, m.Image = file, file, file, file
	put(t, r, m)
	r.Lost(text.Digest)
	control := func() netbootapi.Entry { return netbootapi.NewEntry(nil, m.Control) }
	m.PowerOn, m.Attempt, m.Token = "p2", "2", "another-token-0123456789"
	_, err := r.CheckMachine("u1", control())
	missing := (*netbootapi.MissingError)(nil)
	if !errors.As(err, &missing) || !slices.Equal(missing.Blobs, []netbootapi.Blob{text}) {
		t.Fatalf("an installation without its text: got error %v, want %s missing", err, text.Digest)
	}
	r.Stored(text.Digest, text.Size)
	a, err := r.CheckMachine("u1", control())
	if err != nil || !r.PutMachine(a) {
		t.Fatalf("with the text: got error %v, want none", err)
	}
	r.Lost(text.Digest)
	m.Boot, m.PowerOn = netbootapi.BootDisk, "p3"
	if a, err = r.CheckMachine("u1", control()); err != nil || !r.PutMachine(a) {
		t.Fatalf("a boot from disk without the text: got error %v, want none", err)
	}
	if now, state := r.Machine("u1"); now.PowerOn != "p3" || !slices.Equal(state.MissingBlobs, []netbootapi.Blob{text}) {
		t.Errorf("got power-on %q and missing %v, want p3 and the text", now.PowerOn, state.MissingBlobs)
	}
}

func TestMachinesAreLimited(t *testing.T) {
	r := filled(t, netbootapi.MaxMachines)
	extra := machine(netbootapi.MaxMachines)
	if _, err := r.CheckMachine(extra.UID, entry(extra)); !errors.Is(err, netbootapi.ErrTooMany) {
		t.Errorf("one too many: got error %v, want %v", err, netbootapi.ErrTooMany)
	}
	edited := machine(7)
	edited.Hostname = "other"
	put(t, r, edited)
	r.DeleteMachine("u7")
	put(t, r, extra)
}

func TestDigestsAreOfTheBytes(t *testing.T) {
	r := filled(t, 0)
	m := machine(1)
	e := entry(m)
	e.Content = []byte(strings.Replace(string(e.Content), `"name":"target-1"`, "\"unknown\" : [ 1.0 ],  \"name\":\"a\xff\\u0061\"", 1))
	raw := e.Encode()
	decoded, err := netbootapi.DecodeEntry(raw)
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.CheckMachine("u1", decoded)
	if err != nil || !r.PutMachine(a) {
		t.Fatalf("got error %v, want none", err)
	}
	_, state := r.Machine("u1")
	if want := netbootapi.Digest(e.Content); state.Content != want {
		t.Errorf("got content %s, want %s, the digest of the bytes", state.Content, want)
	}
	if stored, _ := r.Entry("u1"); string(stored.Encode()) != string(raw) {
		t.Errorf("got entry %q, want %q", stored.Encode(), raw)
	}
}

func TestInstallationKeepsItsContent(t *testing.T) {
	r := filled(t, 2)
	r.EditMachine("u1", func(s *netbootapi.MachineState) { s.ProfileDigest = "p" })
	edited := machine(1)
	edited.Hostname = "other"
	edited.UserDataTemplate = netbootapi.TextBlob(server().TextKey, "not uploaded")
	edited.BootConfirmed = "1"
	put(t, r, edited)
	m, state := r.Machine("u1")
	if !state.Installing || m.Hostname != "target-1" || m.BootConfirmed != "1" || state.Content != entry(machine(1)).ContentDigest() {
		t.Errorf("while installing: got %+v, state %+v; want the old content with the new control part", m, state)
	}
	a, err := r.CheckMachine("u1", entry(edited))
	if err != nil || !a.Unchanged || !a.Kept {
		t.Errorf("put again: got %+v, error %v; want no change", a, err)
	}
	// Adopting an entry fails if the installation ends meanwhile.
	edited.BootConfirmed = ""
	edited.UserDataTemplate = netbootapi.Blob{}
	a, err = r.CheckMachine("u1", entry(edited))
	if err != nil {
		t.Fatal(err)
	}
	r.EditMachine("u1", func(s *netbootapi.MachineState) { s.PhoneHome = &netbootapi.PhoneHome{} })
	if r.PutMachine(a) {
		t.Error("PutMachine of a decision that is out of date: got true, want false")
	}
	put(t, r, edited)
	if m, state := r.Machine("u1"); m.Hostname != "other" || state.Installing || state.PhoneHome == nil {
		t.Errorf("after the installation: got %+v, state %+v; want the new content with the same observations", m, state)
	}
}

// Whatever the order of power-on, plan and another content, the content of which the plan
// was served is kept, and with it its files.
func TestPlanBeforePowerOnKeepsItsContent(t *testing.T) {
	r := filled(t, 0)
	file := netbootapi.Blob{Digest: "sha256:" + strings.Repeat("1", 64), Size: 1}
	m := machine(1)
	m.PowerOn = "" // the machine runs already, and its firmware does not wait
	m.Kernel = file
	put(t, r, m)
	r.EditMachine("u1", func(s *netbootapi.MachineState) { s.ProfileDigest = "p" })
	edited := machine(1)
	edited.PowerOn = ""
	put(t, r, edited)
	if !r.Named(file.Digest) {
		t.Error("another content before the power-on: got the file not named, want it kept")
	}
	edited.PowerOn = "p1"
	put(t, r, edited)
	if m, state := r.Machine("u1"); m.Kernel != file || m.PowerOn != "p1" || !state.Installing {
		t.Errorf("after the power-on: got %+v, state %+v; want the content kept with the new control part", m, state)
	}
}

// A power-off ends an installation unless the installer is done: then the installed system
// reads its data at its next boot.
func TestPowerOffBeforePhoneHome(t *testing.T) {
	done := &netbootapi.InstallState{Stage: "Done", DoneAt: time.Unix(1, 0)}
	for name, c := range map[string]struct {
		install *netbootapi.InstallState
		kept    bool
	}{
		"plan fetched": {nil, false},
		"writing":      {&netbootapi.InstallState{Stage: "Write"}, false},
		"done":         {done, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := filled(t, 0)
			file := netbootapi.Blob{Digest: "sha256:" + strings.Repeat("1", 64), Size: 1}
			m := machine(1)
			m.Kernel = file
			put(t, r, m)
			r.EditMachine("u1", func(s *netbootapi.MachineState) { s.ProfileDigest, s.Install = "p", c.install })
			off := *m
			off.PowerOn = ""
			put(t, r, &off)
			edited := off
			edited.Kernel = netbootapi.Blob{}
			put(t, r, &edited)
			edited.PowerOn = "p2"
			put(t, r, &edited)
			if got := r.Named(file.Digest); got != c.kept {
				t.Errorf("after another power-on: got the file named %t, want %t", got, c.kept)
			}
			if _, state := r.Machine("u1"); state.Installing != c.kept {
				t.Errorf("after another power-on: got installing %t, want %t", state.Installing, c.kept)
			}
			edited.Attempt = "2"
			put(t, r, &edited)
			if _, state := r.Machine("u1"); r.Named(file.Digest) || state.Installing {
				t.Errorf("another attempt: got state %+v, want the new content", state)
			}
		})
	}
}

func TestNetworkDecidesWhoIsServed(t *testing.T) {
	r := filled(t, 2)
	before := r.Changes(netbootapi.Position{}).Position
	other := server()
	other.Network.Address = netip.MustParsePrefix("10.9.1.1/29")
	other.Network.RangeStart = netip.MustParseAddr("10.9.1.3")
	other.Network.RangeEnd = netip.MustParseAddr("10.9.1.4")
	r.PutServer(other.Encode(), other)
	byToken, _ := r.ByToken(machine(1).Token)
	if r.ByMAC(machine(1).MAC) != nil || r.ByAddr(machine(1).Address) != nil || byToken != nil {
		t.Error("a machine outside the network is found, want it not to be served")
	}
	u := r.Changes(before)
	if len(u.Machines) != 2 || u.Machines["u1"] == nil || !strings.Contains(u.Machines["u1"].Problem, "address") {
		t.Errorf("got update %+v, want both machines with a problem of the address", u)
	}
	back := server()
	r.PutServer(back.Encode(), back)
	if m := r.ByMAC(machine(1).MAC); m == nil {
		t.Error("back in the network: got no machine, want it served again")
	}
	if _, state := r.Machine("u1"); state.Problem != "" {
		t.Errorf("back in the network: got problem %q, want none", state.Problem)
	}
}

func TestChanges(t *testing.T) {
	r := filled(t, 10)
	start := r.Changes(netbootapi.Position{})
	if !start.Snapshot || start.Server == nil || len(start.Machines) != 10 {
		t.Fatalf("got %+v, want a snapshot of all", start)
	}
	if u := r.Changes(start.Position); u.Snapshot || u.Server != nil || len(u.Machines) != 0 || u.Position != start.Position {
		t.Errorf("nothing changed: got %+v, want nothing", u)
	}
	r.EditMachine("u3", func(s *netbootapi.MachineState) { s.ProfileDigest = "p" })
	r.DeleteMachine("u4")
	r.DeleteMachine("u5")
	put(t, r, machine(5))
	u := r.Changes(start.Position)
	gone, removed := u.Machines["u4"]
	if len(u.Machines) != 3 || u.Machines["u3"].ProfileDigest != "p" || !removed || gone != nil || u.Machines["u5"] == nil || u.Server != nil {
		t.Errorf("got %+v, want u3, u5 and the removal of u4", u)
	}
	for name, after := range map[string]netbootapi.Position{
		"another run": {Store: "x", Sequence: start.Position.Sequence},
		"the future":  {Store: r.Store(), Sequence: u.Position.Sequence + 1},
	} {
		if u := r.Changes(after); !u.Snapshot || u.Server == nil || len(u.Machines) != 9 {
			t.Errorf("%s: got %+v, want a snapshot", name, u)
		}
	}
	// More removals than are remembered.
	for range maxRemoved + 1 {
		put(t, r, machine(4))
		r.DeleteMachine("u4")
	}
	if u := r.Changes(start.Position); !u.Snapshot {
		t.Errorf("a position before forgotten removals: got %+v, want a snapshot", u)
	}
	if n := len(r.removed); n > maxRemoved {
		t.Errorf("got %d removals, want at most %d", n, maxRemoved)
	}
}

func TestBlobsAreMissingUntilStored(t *testing.T) {
	r := filled(t, 2)
	text := netbootapi.TextBlob(server().TextKey, "text")
	r.Stored(text.Digest, text.Size)
	with := machine(1)
	with.UserDataTemplate = text
	put(t, r, with)
	if !r.Named(text.Digest) {
		t.Error("a blob of an entry: got not named, want named")
	}
	before := r.Changes(netbootapi.Position{}).Position
	r.Lost(text.Digest)
	u := r.Changes(before)
	if len(u.Machines) != 1 || !slices.Equal(u.Machines["u1"].MissingBlobs, []netbootapi.Blob{text}) {
		t.Errorf("lost: got %+v, want the machine with a missing blob", u)
	}
	r.Stored(text.Digest, text.Size)
	if _, state := r.Machine("u1"); len(state.MissingBlobs) != 0 {
		t.Errorf("stored again: got missing %v, want none", state.MissingBlobs)
	}
	put(t, r, machine(1))
	if r.Named(text.Digest) {
		t.Error("a blob that nothing names: got named, want not named")
	}
}

func TestAdmit(t *testing.T) {
	r := New(netbootapi.State{})
	for i, c := range []struct {
		epoch int64
		want  error
	}{{0, nil}, {3, nil}, {3, nil}, {2, netbootapi.ErrFenced}, {0, netbootapi.ErrFenced}, {4, nil}, {3, netbootapi.ErrFenced}} {
		if err := r.Admit(c.epoch); !errors.Is(err, c.want) {
			t.Errorf("%d: Admit(%d): got error %v, want %v", i, c.epoch, err, c.want)
		}
	}
	if got := r.Epoch(); got != 4 {
		t.Errorf("got epoch %d, want 4", got)
	}
}

func TestEvents(t *testing.T) {
	const size = 300
	e := NewEvents("s", size)
	_, _, changed := e.After(netbootapi.Position{})
	for range size + 10 {
		e.Add(netbootapi.Event{Kind: netbootapi.EventDHCP, Name: strings.Repeat("\x01", 1<<16), Detail: strings.Repeat("<", 1<<16)})
	}
	select {
	case <-changed:
	default:
		t.Error("got no signal after an event, want one")
	}
	for name, c := range map[string]struct {
		after       netbootapi.Position
		lost, first uint64
		n           int
	}{
		"start":       {netbootapi.Position{}, 10, 11, maxBatch},
		"gap":         {netbootapi.Position{Store: "s", Sequence: 4}, 6, 11, maxBatch},
		"no gap":      {netbootapi.Position{Store: "s", Sequence: 10}, 0, 11, maxBatch},
		"end":         {netbootapi.Position{Store: "s", Sequence: size + 8}, 0, size + 9, 2},
		"caught up":   {netbootapi.Position{Store: "s", Sequence: size + 10}, 0, 0, 0},
		"another run": {netbootapi.Position{Store: "x", Sequence: 200}, 10, 11, maxBatch},
	} {
		t.Run(name, func(t *testing.T) {
			events, lost, _ := e.After(c.after)
			if lost != c.lost || len(events) != c.n || c.n > 0 && events[0].Sequence != c.first {
				t.Errorf("got %d lost and %d events, want %d and %d from %d", lost, len(events), c.lost, c.n, c.first)
			}
		})
	}
}

// BenchmarkChanges is what one change of one machine among 1000 costs a watcher.
func BenchmarkChanges(b *testing.B) {
	r := filled(b, 1000)
	position := r.Changes(netbootapi.Position{}).Position
	b.ReportAllocs()
	for b.Loop() {
		r.EditMachine("u500", func(s *netbootapi.MachineState) { s.ProfileDigest = "p" })
		u := r.Changes(position)
		if len(u.Machines) != 1 {
			b.Fatalf("got %d machines, want 1", len(u.Machines))
		}
		position = u.Position
	}
}
