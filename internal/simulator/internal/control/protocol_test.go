// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/machine"
)

func exampleRecord() Record {
	return Record{
		Machine: machine.Machine{
			ID: "6f0a3c9e-5d2b-4b8e-9a51-0c1d2e3f4a5b", Kind: machine.KindSimulated, CPUs: 1,
			Simulation: &machine.Simulation{BootDelay: time.Second, Faults: []machine.SimulatedFault{{Type: "NoSSH", Probability: 0.5}}},
		},
		Digest: "sha256:0", StartedAt: time.Unix(1, 2).UTC(), BootOrder: []string{"lab"}, Resets: 3, PowerOns: 2,
	}
}

func TestMessages(t *testing.T) {
	record := exampleRecord()
	want := []Message{
		{Hello: &Hello{Protocol: Version, Program: "sha256:1"}},
		{Record: &record, Event: &Event{Type: machine.EventReset, Detail: "guest-reset", At: time.Unix(3, 0).UTC()}},
		{Synced: true}, {}, {Reply: &Reply{Sequence: 1, Code: NotRunning}},
	}
	var stream bytes.Buffer
	for _, m := range want {
		line, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		stream.Write(line)
	}
	lines := NewLines(&stream)
	for i := range want {
		var got Message
		if err := lines.Next(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("message %d (-want +got):\n%s", i, diff)
		}
	}
	if err := lines.Next(&Message{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got error %v, want %v", err, io.EOF)
	}
}

func TestLongAndDamagedLines(t *testing.T) {
	if _, err := Encode(strings.Repeat("x", maxLine)); err == nil {
		t.Error("Encode of a long message: got no error, want one")
	}
	for name, text := range map[string]string{"long": strings.Repeat("x", 2*maxLine), "damaged": "{\n", "cut": `{"synced":`} {
		if err := NewLines(strings.NewReader(text)).Next(&Message{}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got error %v, want one that is not the end", name, err)
		}
	}
}

func TestRepliesAreErrors(t *testing.T) {
	for code, want := range map[Code]error{
		OK: nil, NotRunning: machine.ErrNotRunning, Running: machine.ErrRunning, Retiring: ErrRetiring,
		Outdated: ErrOutdated,
	} {
		if got := (Reply{Code: code}).Err(); !errors.Is(got, want) {
			t.Errorf("%q: got error %v, want %v", code, got, want)
		}
	}
	if got := (Reply{Code: Failed, Detail: "cause"}).Err(); got == nil || got.Error() != "cause" {
		t.Errorf("failed: got error %v, want the cause", got)
	}
}

func TestRecordFile(t *testing.T) {
	r := exampleRecord()
	r.Machine.Paths.Record = filepath.Join(t.TempDir(), "simulator.json")
	r.Exit = r.End(machine.ExitStopped)
	r.Exit.At = r.Exit.At.UTC().Truncate(time.Second)
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(r.Machine.Paths.Record, r.Machine.ID)
	r.Version = recordVersion
	if diff := cmp.Diff(r, got); diff != "" || err != nil {
		t.Errorf("error %v, record (-want +got):\n%s", err, diff)
	}
	if _, err := Load(r.Machine.Paths.Record, "another"); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Errorf("another machine's record: got error %v, want one that names its machine", err)
	}
}

// FuzzLines reads what a process at the other end of the socket may send.
func FuzzLines(f *testing.F) {
	record := exampleRecord()
	for _, v := range []any{Message{Record: &record}, Message{Synced: true}, Request{Operation: Start, Record: &record}} {
		line, err := Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for lines, n := NewLines(bytes.NewReader(text)), 0; ; n++ {
			var m Message
			var err error
			if err = lines.Next(&m); err != nil {
				return
			}
			if n > bytes.Count(text, []byte("\n")) {
				t.Fatalf("got %d messages from %d lines", n+1, bytes.Count(text, []byte("\n")))
			}
		}
	})
}
