// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lineWriter collects the size of each write, which must be one line.
type lineWriter struct {
	t     testing.TB
	out   io.Writer
	sizes []int
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, '\n') != len(p)-1 {
		w.t.Errorf("got a write of %d bytes that is not one line", len(p))
	}
	w.sizes = append(w.sizes, len(p))
	return w.out.Write(p)
}

// stream is a reader of what was written.
type stream struct {
	lines  *lineWriter
	reader *UpdateReader
}

func newStream(t testing.TB) *stream {
	pipe := &bytes.Buffer{}
	return &stream{lines: &lineWriter{t: t, out: pipe}, reader: NewUpdateReader(pipe)}
}

// send writes an Update and returns what the reader makes of it, the number of records
// and the UIDs that were left out.
func (s *stream) send(t testing.TB, u Update) (got Update, records int, tooLarge []string) {
	t.Helper()
	s.lines.sizes = nil
	tooLarge, err := WriteUpdate(s.lines, u)
	if err != nil {
		t.Fatal(err)
	}
	heard := 0
	if got, err = s.reader.Read(func() { heard++ }); err != nil {
		t.Fatal(err)
	}
	if heard != len(s.lines.sizes) {
		t.Errorf("records: heard of %d, want %d", heard, len(s.lines.sizes))
	}
	return got, len(s.lines.sizes), tooLarge
}

// at returns a position in the tests' store.
func at(sequence uint64) Position { return Position{Store: "store-1", Sequence: sequence} }

func machineState(attempt string) *MachineState { return &MachineState{Attempt: attempt} }

func TestStreamCarriesUpdates(t *testing.T) {
	s := newStream(t)
	var observed Observed
	full := MachineState{Attempt: "1", PhoneHome: &PhoneHome{Hostname: "a"}, MissingBlobs: []Blob{{Digest: "d", Size: 1}}}
	for _, step := range []struct {
		name    string
		update  Update
		records int
		server  string   // the digest of the config that is observed then
		want    []string // the machines that are observed then
	}{
		{"an empty snapshot", Update{Snapshot: true, Server: &State{Version: "v1", StartedAt: time.Unix(1, 0).UTC()}, Position: at(1)}, 2, "", nil},
		{"a heartbeat", Update{Position: at(1)}, 1, "", nil},
		{"two machines", Update{Machines: map[string]*MachineState{"a": machineState("1"), "b": machineState("1")}, Position: at(3)}, 3,
			"", []string{"a", "b"}},
		{"one changed", Update{Machines: map[string]*MachineState{"a": &full}, Position: at(4)}, 2, "", []string{"a", "b"}},
		{"server changed", Update{Server: &State{Server: "d"}, Position: at(5)}, 2, "d", []string{"a", "b"}},
		{"one removed", Update{Machines: map[string]*MachineState{"a": nil}, Position: at(6)}, 2, "d", []string{"b"}},
		{"all", Update{Server: &State{Server: "e"}, Machines: map[string]*MachineState{"b": nil, "c": machineState("1")}, Position: at(9)}, 4,
			"e", []string{"c"}},
		{"another snapshot", Update{Snapshot: true, Server: &State{Server: "f"}, Machines: map[string]*MachineState{"x": machineState("1")},
			Position: Position{Store: "store-2", Sequence: 1}}, 3, "f", []string{"x"}},
	} {
		got, records, tooLarge := s.send(t, step.update)
		want := step.update
		if want.Machines == nil {
			want.Machines = map[string]*MachineState{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if records != step.records || len(tooLarge) != 0 {
			t.Errorf("%s: got %d records, %v left out; want %d, none", step.name, records, tooLarge, step.records)
		}
		if err := observed.Apply(got); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if uids := slices.Sorted(maps.Keys(observed.Machines)); observed.State.Server != step.server || !slices.Equal(uids, step.want) {
			t.Errorf("%s: got config %q and machines %v, want %q and %v", step.name, observed.State.Server, uids, step.server, step.want)
		}
		if observed.Position != want.Position {
			t.Errorf("%s: got position %v, want %v", step.name, observed.Position, want.Position)
		}
	}
}

// manyMachines returns the states of n machines, each of about size bytes.
func manyMachines(n, size int) map[string]*MachineState {
	machines := map[string]*MachineState{}
	for i := range n {
		m := MachineState{Attempt: fmt.Sprintf("%d-1", i), PhoneHome: &PhoneHome{HostKeys: []string{strings.Repeat("A", size/2)}}}
		m.Warnings = []Warning{{Reason: "R", Message: strings.Repeat("x", size/2)}}
		machines[fmt.Sprintf("44444444-4444-4444-8444-%012d", i)] = &m
	}
	return machines
}

// A state of any number of machines is delivered, also if it is far larger than one
// record may be.
func TestStreamDeliversLargeStates(t *testing.T) {
	s := newStream(t)
	u := Update{Snapshot: true, Server: &State{Version: "v1"}, Machines: manyMachines(400, MaxMachineBytes-512), Position: at(1)}
	got, records, tooLarge := s.send(t, u)
	if diff := cmp.Diff(u, got); diff != "" || len(tooLarge) != 0 || records != 402 {
		t.Errorf("got %d machines in %d records, %v left out; want all 400 in 402", len(got.Machines), records, tooLarge)
	}
	if largest := slices.Max(s.lines.sizes); largest > MaxMachineBytes {
		t.Errorf("the largest record: got %d bytes, want at most %d", largest, MaxMachineBytes)
	}
}

// Of a machine whose state is too large nothing is observed; the others are unaffected.
func TestStreamLeavesOutTooLargeMachines(t *testing.T) {
	s := newStream(t)
	small := Update{Snapshot: true, Server: &State{Version: "v1"}, Machines: manyMachines(3, 1000), Position: at(1)}
	uids := slices.Sorted(maps.Keys(small.Machines))
	var observed Observed
	apply := func(u Update) []string {
		t.Helper()
		got, _, tooLarge := s.send(t, u)
		if err := observed.Apply(got); err != nil {
			t.Fatal(err)
		}
		return tooLarge
	}
	if tooLarge := apply(small); len(tooLarge) != 0 || len(observed.Machines) != 3 {
		t.Errorf("small: got %d machines, %v left out; want all", len(observed.Machines), tooLarge)
	}
	large := manyMachines(1, MaxMachineBytes)["44444444-4444-4444-8444-000000000000"]
	tooLarge := apply(Update{Machines: map[string]*MachineState{uids[0]: small.Machines[uids[0]], uids[1]: large}, Position: at(2)})
	if left := slices.Sorted(maps.Keys(observed.Machines)); !slices.Equal(tooLarge, uids[1:2]) || !slices.Equal(left, []string{uids[0], uids[2]}) {
		t.Errorf("got machines %v, %v left out; want only %s left out", left, tooLarge, uids[1])
	}
	tooLarge = apply(Update{Machines: map[string]*MachineState{uids[1]: small.Machines[uids[1]]}, Position: at(3)})
	if len(tooLarge) != 0 || len(observed.Machines) != 3 {
		t.Errorf("small again: got %d machines, %v left out; want all", len(observed.Machines), tooLarge)
	}
}

// failingWriter fails after a number of writes.
type failingWriter int

var errFull = errors.New("full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if *w--; *w < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteUpdateReturnsErrors(t *testing.T) {
	u := Update{Snapshot: true, Server: &State{}, Machines: manyMachines(2, 10), Position: at(1)}
	for writes := range failingWriter(4) {
		if _, err := WriteUpdate(&writes, u); !errors.Is(err, errFull) {
			t.Errorf("got error %v, want %v", err, errFull)
		}
	}
	u.Server = &State{Version: strings.Repeat("x", MaxServerBytes)}
	if _, err := WriteUpdate(io.Discard, u); !errors.Is(err, errTooLarge) {
		t.Errorf("a large server: got error %v, want %v", err, errTooLarge)
	}
}

func TestUpdateReaderRefuses(t *testing.T) {
	const server, end = `{"server":{"version":"v"}}` + "\n", `{"end":{"snapshot":true,"position":"a:1"}}` + "\n"
	machine := func(uid, attempt string) string {
		return fmt.Sprintf(`{"machine":%q,"state":{"attempt":%q}}`+"\n", uid, attempt)
	}
	many, removed := &strings.Builder{}, &strings.Builder{}
	for i := range MaxMachines + 1 {
		many.WriteString(machine(fmt.Sprint(i), "1"))
		fmt.Fprintf(removed, `{"machine":"%d"}`+"\n", i)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                   {"", "EOF"},
		"no end":                    {server, "unexpected EOF"},
		"a cut record":              {server + `{"end":{"posi`, "unexpected EOF"},
		"a cut stream":              {server + machine("a", "1"), "unexpected EOF"},
		"not JSON":                  {"x\n", "invalid character"},
		"an empty record":           {"{}\n", "another version than the manager"},
		"a state of other versions": {`{"version":"v","machines":{}}` + "\n", "another version than the manager"},
		"an end of other versions":  {server + `{"end":true}` + "\n", "cannot unmarshal"},
		"no position":               {server + `{"end":{}}` + "\n", "is not STORE:NUMBER"},
		"a malformed position":      {server + `{"end":{"position":"a"}}` + "\n", "is not STORE:NUMBER"},
		"a malformed UID":           {server + machine("../x", "1") + end, "UID of a machine is malformed"},
		"a malformed UID removed":   {server + `{"machine":"../x"}` + "\n" + end, "UID of a machine is malformed"},
		"a large machine":           {server + machine("a", strings.Repeat("x", MaxMachineBytes)) + end, "too large"},
		"a large end":               {`{"end":{"position":"` + strings.Repeat("a", MaxMachineBytes) + `:1"}}` + "\n", "too large"},
		"a large server":            {`{"server":{"version":"` + strings.Repeat("x", MaxServerBytes), "longer than"},
		"too many machines":         {server + many.String() + end, "more than 4096 machines"},
		"too many machines removed": {server + removed.String() + end, "more than 4096 machines"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewUpdateReader(strings.NewReader(c.text)).Read(nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one that contains %q", err, c.want)
			}
		})
	}
}

func TestUpdateReaderReadsSlowStreams(t *testing.T) {
	var text bytes.Buffer
	u := Update{Snapshot: true, Server: &State{Version: "v"}, Machines: manyMachines(2, 50), Position: at(1)}
	if _, err := WriteUpdate(&text, u); err != nil {
		t.Fatal(err)
	}
	r := NewUpdateReader(iotest.OneByteReader(&text))
	got, err := r.Read(nil)
	if diff := cmp.Diff(u, got); err != nil || diff != "" {
		t.Errorf("got error %v (-want +got):\n%s", err, diff)
	}
	if _, err := r.Read(nil); err != io.EOF {
		t.Errorf("at the end: got error %v, want %v", err, io.EOF)
	}
}

// FuzzUpdateReader checks that a reader of any stream returns only Updates that a
// stream can carry and that can be applied within the limits, and does not fail
// otherwise.
func FuzzUpdateReader(f *testing.F) {
	var valid bytes.Buffer
	for _, u := range []Update{
		{Snapshot: true, Server: &State{Version: "v1", StartedAt: time.Unix(1, 0).UTC()}, Machines: manyMachines(3, 10), Position: at(1)},
		{Server: &State{Version: "v2", Unknown: []UnknownClient{{MAC: "a"}}}, Machines: manyMachines(2, 10), Position: at(4)},
		{Machines: map[string]*MachineState{"a": nil}, Position: at(5)},
	} {
		if _, err := WriteUpdate(&valid, u); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(valid.Bytes())
	f.Add([]byte(`{"server":{"machines":{"a":{}}},"machine":"b"}` + "\n" + `{"machine":"a","end":{"position":"a:1"}}` + "\n" +
		`{"end":{"position":"a:1"}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 8<<10 {
			return // escapes may make a record larger
		}
		reader := NewUpdateReader(bytes.NewReader(text))
		var observed Observed
		for {
			u, err := reader.Read(nil)
			if err != nil {
				return
			}
			for uid := range u.Machines {
				if !ValidUID(uid) {
					t.Fatalf("got the UID %q", uid)
				}
			}
			s := newStream(t)
			got, _, tooLarge := s.send(t, u)
			if want, have := encode(t, u), encode(t, got); want != have || len(tooLarge) != 0 {
				t.Fatalf("sent again: got %s, want %s", have, want)
			}
			before := observed.Clone()
			if err := observed.Apply(u); err != nil && encode(t, before) != encode(t, observed) {
				t.Fatalf("an Update that was refused with %v changed what was observed", err)
			}
		}
	})
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
