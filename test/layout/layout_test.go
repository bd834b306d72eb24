// SPDX-License-Identifier: Apache-2.0

// Package layout asserts what the folder list promises: which package may import
// which is written down once for each, and the programs link no more than they
// need.
package layout

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const module = "github.com/pxelab/pxelab"

// root is the checkout.
const root = "../.."

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.Fields(string(out))
}

// importRules are depguard's rules of .golangci.yml: the file globs by name.
func importRules(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".golangci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						ListMode string   `yaml:"list-mode"`
						Files    []string `yaml:"files"`
					} `yaml:"rules"`
				} `yaml:"depguard"`
			} `yaml:"settings"`
		} `yaml:"linters"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	for name, rule := range config.Linters.Settings.Depguard.Rules {
		if rule.ListMode != "strict" {
			t.Errorf("rule %s: list-mode is %q, want strict", name, rule.ListMode)
		}
		rules[name] = rule.Files
	}
	return rules
}

// matches reports whether a rule's glob covers the files of a directory, which
// is relative to the checkout. "**/" stands for any parent directories.
func matches(glob, dir string) bool {
	want, isDir := strings.CutSuffix(strings.TrimPrefix(glob, "**/"), "/*.go")
	return isDir && (dir == want || strings.HasSuffix(dir, "/"+want))
}

// TestImportRules asserts that exactly one import rule matches each package that
// is part of a program, and that every rule matches a package.
func TestImportRules(t *testing.T) {
	rules := importRules(t)
	used := map[string]bool{}
	for _, pkg := range goList(t, "./api/...", "./cmd/...", "./controllers/...", "./internal/...") {
		dir := strings.TrimPrefix(pkg, module+"/")
		var matching []string
		for name, globs := range rules {
			if slices.ContainsFunc(globs, func(glob string) bool { return matches(glob, dir) }) {
				matching = append(matching, name)
				used[name] = true
			}
		}
		if len(matching) != 1 {
			t.Errorf("%s: import rules %q in .golangci.yml match, want exactly one", dir, matching)
		}
	}
	for name, globs := range rules {
		if !used[name] {
			t.Errorf("import rule %s in .golangci.yml: got no package that matches %q, want one", name, globs)
		}
	}
}

// TestDependencies asserts what programs and packages do not link.
func TestDependencies(t *testing.T) {
	for name, c := range map[string]struct {
		pkg  string
		deny []string
	}{
		"manager_links_no_boot_services": {"./cmd/manager", []string{
			module + "/internal/netbootd", "github.com/google/nftables", "github.com/insomniacslk/dhcp",
		}},
		"manager_links_no_simulated_guests": {"./cmd/manager", []string{
			module + "/internal/simulator/server", module + "/internal/simulator/internal/guest", "gvisor.dev/gvisor",
		}},
		"manager_links_no_kind": {"./cmd/manager", []string{"sigs.k8s.io/kind"}},
		"plan_is_pure": {"./internal/plan", []string{
			module + "/internal/qemu", module + "/internal/process", "github.com/gofrs/flock", "os/exec",
		}},
		"bootconfig_is_pure": {"./internal/bootconfig/...", []string{module + "/internal/netbootd", "os/exec"}},
		"simulated_guest_shares_nothing_with_servers": {"./internal/simulator/internal/guest", []string{
			module + "/internal/netbootd", module + "/internal/netbootapi", module + "/internal/bootconfig", "github.com/insomniacslk/dhcp",
		}},
		"machine_is_values": {"./internal/machine", []string{module + "/internal/qemu", "os/exec"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dep := range goList(t, "-deps", c.pkg) {
				for _, denied := range c.deny {
					if dep == denied || strings.HasPrefix(dep, denied+"/") {
						t.Errorf("%s: got dependency %s, want none on %s", c.pkg, dep, denied)
					}
				}
			}
		})
	}
}

// TestNetlinkOnlyThroughLabnet asserts that the manager's only user of netlink
// is internal/labnet.
func TestNetlinkOnlyThroughLabnet(t *testing.T) {
	format := `{{if .Module}}{{if eq .Module.Path "` + module + `"}}{{.ImportPath}}={{join .Imports ","}}{{end}}{{end}}`
	lines := goList(t, "-deps", "-f", format, "./cmd/manager")
	var users []string
	for _, line := range lines {
		pkg, imports, _ := strings.Cut(line, "=")
		if slices.Contains(strings.Split(imports, ","), "github.com/vishvananda/netlink") {
			users = append(users, pkg)
		}
	}
	if want := []string{module + "/internal/labnet"}; !slices.Equal(users, want) {
		t.Errorf("netlink is imported by %q, want %q", users, want)
	}
}
