// SPDX-License-Identifier: Apache-2.0

package version

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestDescribe(t *testing.T) {
	commit := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "89f5a0b00000000000000000000000000000dead"},
		{Key: "vcs.time", Value: "2026-11-26T20:00:00Z"},
		{Key: "vcs.modified", Value: "false"},
	}
	modified := append([]debug.BuildSetting{}, commit[:2]...)
	modified = append(modified, debug.BuildSetting{Key: "vcs.modified", Value: "true"})
	for name, c := range map[string]struct {
		tag  string
		info *debug.BuildInfo
		want string
	}{
		"no_build_info":     {want: "(devel)"},
		"tag_only":          {tag: "v0.1.0", want: "v0.1.0"},
		"no_checkout":       {info: &debug.BuildInfo{Main: debug.Module{Version: "v0.1.0"}}, want: "v0.1.0"},
		"tag_before_module": {tag: "v0.1.0", info: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, want: "v0.1.0"},
		"commit":            {info: &debug.BuildInfo{Settings: commit}, want: "(devel) (commit 89f5a0b00000, 2026-11-26T20:00:00Z)"},
		"modified": {
			tag: "v0.1.0", info: &debug.BuildInfo{Settings: modified},
			want: "v0.1.0 (commit 89f5a0b00000, 2026-11-26T20:00:00Z, modified)",
		},
		"commit_but_no_time": {info: &debug.BuildInfo{Settings: commit[:1]}, want: "(devel) (commit 89f5a0b00000)"},
		"described": {
			tag: "v0.1.0-5-g89f5a0b00000", info: &debug.BuildInfo{Settings: commit},
			want: "v0.1.0-5-g89f5a0b00000 (2026-11-26T20:00:00Z)",
		},
		"described_as_dirty": {
			tag: "89f5a0b00000-dirty", info: &debug.BuildInfo{Settings: modified},
			want: "89f5a0b00000-dirty (2026-11-26T20:00:00Z)",
		},
		"untracked_files": {
			tag: "89f5a0b00000", info: &debug.BuildInfo{Settings: modified},
			want: "89f5a0b00000 (2026-11-26T20:00:00Z, modified)",
		},
		"worktree": {tag: "89f5a0b00000-dirty", info: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, want: "89f5a0b00000-dirty"},
		"pseudo_version": {
			info: &debug.BuildInfo{Main: debug.Module{Version: "v0.1.1-0.20261126200000-89f5a0b00000+dirty"}, Settings: modified},
			want: "v0.1.1-0.20261126200000-89f5a0b00000+dirty (2026-11-26T20:00:00Z)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describe(c.tag, c.info); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := FileDigest(path)
	if want := "sha256:ba7816bf8f01"; err != nil || got != want {
		t.Errorf("got %q, error %v, want %q", got, err, want)
	}
	if got := Digest(); len(got) != len("sha256:")+12 {
		t.Errorf("digest of this program: got %q, want sha256: and 12 digits", got)
	}
}
