// SPDX-License-Identifier: Apache-2.0

package bounded

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
		"create, as containerd's shim calls it": {
			args: []string{"--root", "/run/runc", "--log", "l.json", "create", "--bundle", "/b/1", "--pid-file", "p", "id"},
			want: "/b/1/config.json", whole: true,
		},
		"create with a short option":   {args: []string{"create", "-b", "/b", "id"}, want: "/b/config.json", whole: true},
		"create with a joined option":  {args: []string{"run", "--bundle=/b", "id"}, want: "/b/config.json", whole: true},
		"create in the directory":      {args: []string{"create", "id"}, want: "config.json", whole: true},
		"exec":                         {args: []string{"--root", "r", "exec", "--process", "/tmp/p.json", "--detach", "id"}, want: "/tmp/p.json"},
		"exec without a specification": {args: []string{"exec", "id", "sh"}},
		"anything else":                {args: []string{"--root", "r", "state", "id"}},
		"nothing":                      {},
	} {
		t.Run(name, func(t *testing.T) {
			got, whole := specification(tt.args)
			if got != tt.want || whole != tt.whole {
				t.Errorf("%q (whole %v), want %q (%v)", got, whole, tt.want, tt.whole)
			}
		})
	}
}

func TestWithoutCapabilities(t *testing.T) {
	held := map[string]bool{"CAP_KILL": true, "CAP_MKNOD": true}
	spec := `{"ociVersion":"1.0.2","process":{"user":{"uid":0},"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]},"rlimits":[{"hard":18446744073709551615}]}}`
	got, err := withoutCapabilities([]byte(spec), true, held)
	if err != nil {
		t.Fatal(err)
	}
	equalJSON(t, string(got), `{"ociVersion":"1.0.2","process":{"user":{"uid":0},"capabilities":{"bounding":["CAP_KILL"],"effective":[]},"rlimits":[{"hard":18446744073709551615}]}}`)

	process := `{"args":["sh"],"capabilities":{"bounding":["CAP_SYS_RESOURCE","CAP_MKNOD"]}}`
	if got, err = withoutCapabilities([]byte(process), false, held); err != nil {
		t.Fatal(err)
	}
	equalJSON(t, string(got), `{"args":["sh"],"capabilities":{"bounding":["CAP_MKNOD"]}}`)

	// What needs no change keeps every byte.
	for text, whole := range map[string]bool{
		`{ "process": {"capabilities": {"bounding": ["CAP_KILL"]}} }`: true,
		`{ "process": {} }`: true,
		`{ "args": [] }`:    false,
	} {
		if got, err := withoutCapabilities([]byte(text), whole, held); err != nil || string(got) != text {
			t.Errorf("%s became %s, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `[]`, `{}`, `{"process": {"capabilities": "all"}}`} {
		if got, err := withoutCapabilities([]byte(text), true, held); err == nil {
			t.Errorf("%q became %s, want an error", text, got)
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
		t.Error(diff)
	}
}

func TestParseBoundingSet(t *testing.T) {
	held, err := parseBoundingSet("CapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(held) != 40 || held["CAP_SYS_RESOURCE"] || !held["CAP_SYS_ADMIN"] || !held["CAP_CHECKPOINT_RESTORE"] {
		t.Errorf("%d capabilities: %v", len(held), held)
	}
	for _, status := range []string{"", "CapBnd:\tmany\n"} {
		if _, err := parseBoundingSet(status); err == nil {
			t.Errorf("%q: no error", status)
		}
	}
}
