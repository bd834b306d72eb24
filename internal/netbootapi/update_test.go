// SPDX-License-Identifier: Apache-2.0

package netbootapi

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPosition(t *testing.T) {
	for _, p := range []Position{{"a", 0}, {"store-1.x_", 7}, {strings.Repeat("a", 128), math.MaxUint64}} {
		got, err := ParsePosition(p.String())
		if err != nil || got != p {
			t.Errorf("%v: got %v, %v; want it again", p, got, err)
		}
	}
	for _, text := range []string{
		"", ":", ":1", "a", "a:", "a:-1", "a:+1", "a:1 ", "a:1:2", "a:x", "../x:1", ".a:1", "a b:1", "a:18446744073709551616",
		strings.Repeat("a", 129) + ":1", Position{}.String(),
	} {
		if p, err := ParsePosition(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, %v; want ErrInvalid", text, p, err)
		}
	}
}

// machines returns n machines, the first with a number.
func machines(first, n int) map[string]*MachineState {
	out := map[string]*MachineState{}
	for i := range n {
		out[fmt.Sprint(first+i)] = machineState("1")
	}
	return out
}

// An Update that is refused changes nothing.
func TestApplyRefuses(t *testing.T) {
	removed := func(first, n int) map[string]*MachineState {
		out := machines(first, n)
		for uid := range out {
			out[uid] = nil
		}
		return out
	}
	for name, c := range map[string]struct {
		before int // machines that are observed
		update Update
		want   string // "" if it is accepted
		after  int
	}{
		"a snapshot":               {3, Update{Snapshot: true, Server: &State{}, Position: Position{"b", 1}}, "", 0},
		"a snapshot without state": {3, Update{Snapshot: true, Position: at(2)}, "lacks the server's part", 3},
		"another store":            {3, Update{Position: Position{"b", 2}}, "does not continue", 3},
		"no store":                 {3, Update{}, "does not continue", 3},
		"as many as are allowed":   {96, Update{Machines: machines(96, MaxMachines-96), Position: at(2)}, "", MaxMachines},
		"one more":                 {97, Update{Machines: machines(97, MaxMachines-96), Position: at(2)}, "more than", 97},
		"the same again":           {MaxMachines, Update{Machines: machines(0, MaxMachines), Position: at(2)}, "", MaxMachines},
		"all removed":              {MaxMachines, Update{Machines: removed(0, MaxMachines), Position: at(2)}, "", 0},
		"a snapshot of too many": {
			3, Update{Snapshot: true, Server: &State{}, Machines: machines(0, MaxMachines+1), Position: at(2)}, "more than", 3,
		},
		"a snapshot instead of as many": {
			MaxMachines, Update{Snapshot: true, Server: &State{}, Machines: machines(MaxMachines, MaxMachines), Position: at(2)}, "", MaxMachines,
		},
		"a removal of an unknown machine": {3, Update{Machines: removed(7, 1), Position: at(2)}, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			var o Observed
			if err := o.Apply(Update{Snapshot: true, Server: &State{Version: "v"}, Machines: machines(0, c.before), Position: at(1)}); err != nil {
				t.Fatal(err)
			}
			before := o.Clone()
			err := o.Apply(c.update)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got error %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want one that contains %q", err, c.want)
			case err != nil:
				if diff := cmp.Diff(before, o); diff != "" {
					t.Errorf("after an error (-want +got):\n%s", diff)
				}
			case o.Position != c.update.Position:
				t.Errorf("got position %v, want %v", o.Position, c.update.Position)
			}
			if len(o.Machines) != c.after {
				t.Errorf("got %d machines, want %d", len(o.Machines), c.after)
			}
		})
	}
	var o Observed
	if err := o.Apply(Update{Machines: machines(0, 1), Position: at(1)}); err == nil {
		t.Error("an Update before the first snapshot: got no error, want one")
	}
}

// A clone is not changed by later Updates.
func TestClone(t *testing.T) {
	var o Observed
	if err := o.Apply(Update{Snapshot: true, Server: &State{Server: "a"}, Machines: machines(0, 2), Position: at(1)}); err != nil {
		t.Fatal(err)
	}
	clone := o.Clone()
	next := Update{Server: &State{Server: "b"}, Machines: map[string]*MachineState{"0": nil, "1": machineState("2")}, Position: at(2)}
	if err := o.Apply(next); err != nil {
		t.Fatal(err)
	}
	if clone.State.Server != "a" || clone.Position != at(1) || clone.Machines["1"].Attempt != "1" ||
		!slices.Equal(slices.Sorted(maps.Keys(clone.Machines)), []string{"0", "1"}) {
		t.Errorf("got %+v, want what was observed before", clone)
	}
}
