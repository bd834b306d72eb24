// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpecification(t *testing.T) {
	for name, tt := range map[string]struct {
		args  []string
		want  string
		whole bool
	}{
		"create by containerd's shim": {
			args: []string{"--root", "/run/runc", "--log", "l.json", "create", "--bundle", "/b/1", "--pid-file", "p", "id"},
			want: "/b/1/config.json", whole: true,
		},
		"create with a short option": {args: []string{"create", "-b", "/b", "id"}, want: "/b/config.json", whole: true},
		"run with a joined option":   {args: []string{"run", "--bundle=/b", "id"}, want: "/b/config.json", whole: true},
		"create in the directory":    {args: []string{"create", "id"}, want: "config.json", whole: true},
		"exec": {
			args: []string{"--root", "r", "exec", "--process", "/tmp/p.json", "--detach", "id"}, want: "/tmp/p.json",
		},
		"exec without a specification": {args: []string{"exec", "id", "sh"}},
		"other command":                {args: []string{"--root", "r", "state", "id"}},
		"no arguments":                 {},
	} {
		t.Run(name, func(t *testing.T) {
			got, whole := specification(tt.args)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if whole != tt.whole {
				t.Errorf("got whole %t, want %t", whole, tt.whole)
			}
		})
	}
}

func TestWithoutCapabilities(t *testing.T) {
	held := map[string]bool{"CAP_KILL": true, "CAP_MKNOD": true}
	spec := `{"ociVersion":"1.0.2","process":{"user":{"uid":0},` +
		`"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]},` +
		`"rlimits":[{"hard":18446744073709551615}]}}`
	got, err := withoutCapabilities([]byte(spec), true, held)
	if err != nil {
		t.Fatal(err)
	}
	equalJSON(t, string(got), `{"ociVersion":"1.0.2","process":{"user":{"uid":0},`+
		`"capabilities":{"bounding":["CAP_KILL"],"effective":[]},`+
		`"rlimits":[{"hard":18446744073709551615}]}}`)

	process := `{"args":["sh"],"capabilities":{"bounding":["CAP_SYS_RESOURCE","CAP_MKNOD"]}}`
	if got, err = withoutCapabilities([]byte(process), false, held); err != nil {
		t.Fatal(err)
	}
	equalJSON(t, string(got), `{"args":["sh"],"capabilities":{"bounding":["CAP_MKNOD"]}}`)

	// A specification that needs no change is returned byte for byte.
	for text, whole := range map[string]bool{
		`{ "process": {"capabilities": {"bounding": ["CAP_KILL"]}} }`: true,
		`{ "process": {} }`: true,
		`{ "args": [] }`:    false,
	} {
		if got, err := withoutCapabilities([]byte(text), whole, held); err != nil || string(got) != text {
			t.Errorf("%s: got %s, error %v, want it unchanged", text, got, err)
		}
	}
	for _, text := range []string{``, `[]`, `{}`, `{"process": {"capabilities": "all"}}`} {
		if got, err := withoutCapabilities([]byte(text), true, held); err == nil {
			t.Errorf("%q: got %s without an error, want one", text, got)
		}
	}
}

func equalJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := errors.Join(json.Unmarshal([]byte(got), &g), json.Unmarshal([]byte(want), &w)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func TestParseBoundingSet(t *testing.T) {
	held, err := parseBoundingSet("CapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(held) != 40 {
		t.Errorf("got %d capabilities, want 40: %v", len(held), held)
	}
	for name, want := range map[string]bool{"CAP_SYS_RESOURCE": false, "CAP_SYS_ADMIN": true, "CAP_CHECKPOINT_RESTORE": true} {
		if held[name] != want {
			t.Errorf("%s: got held %t, want %t", name, held[name], want)
		}
	}
	for _, status := range []string{"", "CapBnd:\tmany\n"} {
		if _, err := parseBoundingSet(status); err == nil {
			t.Errorf("%q: got no error, want one", status)
		}
	}
}
