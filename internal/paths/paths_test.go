// SPDX-License-Identifier: Apache-2.0

package paths

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

func TestFromEnvironment(t *testing.T) {
	home := func() (string, error) { return "/home/ann", nil }
	homeless := func() (string, error) { return "", errors.New("$HOME is not defined") }

	tests := map[string]struct {
		env     map[string]string
		home    func() (string, error)
		want    Dirs
		wantErr string
	}{
		"nothing set": {
			home: home,
			want: Dirs{"/home/ann/.local/share/pxelab", "/home/ann/.cache/pxelab", "/tmp/pxelab-1000/pxelab"},
		},
		"XDG": {
			env:  map[string]string{"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1000"},
			home: home,
			want: Dirs{"/d/pxelab", "/c/pxelab", "/run/user/1000/pxelab"},
		},
		"relative XDG values are ignored": {
			env:  map[string]string{"XDG_DATA_HOME": "d", "XDG_CACHE_HOME": "c", "XDG_RUNTIME_DIR": "r"},
			home: home,
			want: Dirs{"/home/ann/.local/share/pxelab", "/home/ann/.cache/pxelab", "/tmp/pxelab-1000/pxelab"},
		},
		"PXELAB variables take precedence and need no home": {
			env:  map[string]string{EnvData: "/x/data", EnvCache: "/x/cache", EnvRuntime: "/x/run", "XDG_DATA_HOME": "/d"},
			home: homeless,
			want: Dirs{"/x/data", "/x/cache", "/x/run"},
		},
		"no home": {
			home:    homeless,
			wantErr: EnvData,
		},
		"runtime directory too long for sockets": {
			env:     map[string]string{EnvRuntime: "/" + strings.Repeat("r", maxRuntime)},
			home:    home,
			wantErr: "shorter",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := fromEnvironment(func(k string) string { return tt.env[k] }, tt.home, 1000)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got error %v, want one that contains %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("directories (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnsure(t *testing.T) {
	base := pathstest.Short(t)
	d := Dirs{Data: filepath.Join(base, "data"), Cache: filepath.Join(base, "cache"), Runtime: filepath.Join(base, "run")}
	// A directory that is accessible to others is restricted.
	if err := os.MkdirAll(d.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Ensure(); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{d.Data, d.Runtime, d.Images(), d.ControlPlane(), d.Logs(), d.Records()} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got mode %o, want 700", dir, info.Mode().Perm())
		}
	}
}

func TestEnsureRejectsSymlinkedRuntimeDirectory(t *testing.T) {
	base := pathstest.Short(t)
	planted, err := os.MkdirTemp("/tmp", "px-planted-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(planted); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base, planted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(planted) })

	d := Dirs{Data: filepath.Join(base, "data"), Cache: filepath.Join(base, "cache"), Runtime: filepath.Join(planted, "pxelab")}
	if err := d.Ensure(); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Fatalf("Ensure = %v, want an error about the symbolic link", err)
	}
}

func TestCheckout(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Checkout(); err != nil || got != root {
		t.Errorf("got %q, error %v, want %q", got, err, root)
	}
	t.Chdir(t.TempDir())
	if got, err := Checkout(); err == nil || !strings.Contains(err.Error(), "not in a checkout") {
		t.Errorf("outside of a checkout: got %q, error %v, want an error", got, err)
	}
}
