// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// layout is one distribution's file system, from testdata/<name>/: descriptors,
// and beside them "files", a list of the firmware files it installs.
func layout(t *testing.T, name, descriptorDir string) fstest.MapFS {
	t.Helper()
	root := fstest.MapFS{}
	dir := filepath.Join("testdata", name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != "files" {
			root[below(descriptorDir)+"/"+e.Name()] = &fstest.MapFile{Data: text}
			continue
		}
		for _, f := range strings.Fields(string(text)) {
			root[below(f)] = &fstest.MapFile{Data: []byte("firmware")}
		}
	}
	return root
}

func TestFindLayouts(t *testing.T) {
	raw := func(path string) Image { return Image{Path: path, Format: "raw"} }
	qcow2 := func(path string) Image { return Image{Path: path, Format: "qcow2"} }
	const system = "/usr/share/qemu/firmware"
	for _, tc := range []struct {
		layout, dir, arch string
		code, vars        Image
		mode              Mode
	}{
		{"debian12", system, "x86_64", raw("/usr/share/OVMF/OVMF_CODE_4M.fd"), raw("/usr/share/OVMF/OVMF_VARS_4M.fd"), Split},
		{"debian12", system, "aarch64", raw("/usr/share/AAVMF/AAVMF_CODE.fd"), raw("/usr/share/AAVMF/AAVMF_VARS.fd"), Split},
		{"ubuntu2404", system, "x86_64", raw("/usr/share/OVMF/OVMF_CODE_4M.fd"), raw("/usr/share/OVMF/OVMF_VARS_4M.fd"), Split},
		{"ubuntu2404", system, "aarch64", raw("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd"), raw("/usr/share/AAVMF/AAVMF_VARS.fd"), Split},
		{"fedora", system, "x86_64", qcow2("/usr/share/edk2/ovmf/OVMF_CODE_4M.qcow2"), qcow2("/usr/share/edk2/ovmf/OVMF_VARS_4M.qcow2"), Split},
		{"fedora", system, "aarch64", qcow2("/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.qcow2"), qcow2("/usr/share/edk2/aarch64/vars-template-pflash.qcow2"), Split},
		{"homebrew", "/opt/homebrew/share/qemu/firmware", "x86_64", raw("/opt/homebrew/Cellar/qemu/9.2.0/share/qemu/edk2-x86_64-code.fd"), raw("/opt/homebrew/Cellar/qemu/9.2.0/share/qemu/edk2-i386-vars.fd"), Split},
		{"homebrew", "/opt/homebrew/share/qemu/firmware", "aarch64", raw("/opt/homebrew/Cellar/qemu/9.2.0/share/qemu/edk2-aarch64-code.fd"), raw("/opt/homebrew/Cellar/qemu/9.2.0/share/qemu/edk2-arm-vars.fd"), Split},
		{"modes", system, "x86_64", raw("/fw/combined.fd"), Image{}, Combined},
		{"modes", system, "aarch64", raw("/fw/stateless.fd"), Image{}, Stateless},
	} {
		t.Run(tc.layout+"/"+tc.arch, func(t *testing.T) {
			got, err := find(layout(t, tc.layout, tc.dir), Directories("/opt/homebrew/bin/qemu-system-"+tc.arch), tc.arch)
			if err != nil {
				t.Fatal(err)
			}
			want := UEFI{Descriptor: got.Descriptor, Description: got.Description, Mode: tc.mode, Code: tc.code, Vars: tc.vars}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if filepath.Dir(got.Descriptor) != tc.dir {
				t.Errorf("found by %s", got.Descriptor)
			}
		})
	}
}

const plain = `{
	"description": "d", "interface-types": ["uefi"],
	"mapping": {"device": "flash",
		"executable": {"filename": "/fw/code", "format": "raw"},
		"nvram-template": {"filename": "/fw/vars", "format": "raw"}},
	"targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}], "features": []}`

// variant is plain with one replacement.
func variant(old, replacement string) string { return strings.Replace(plain, old, replacement, 1) }

func tree(files map[string]string) fstest.MapFS {
	root := fstest.MapFS{"fw/code": {}, "fw/vars": {}, "fw/other": {}}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

func TestFindPrecedence(t *testing.T) {
	dirs := []string{"/pkg", "/etc/fw", "/home/fw"}
	other := variant("/fw/code", "/fw/other")
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"by name":                       {map[string]string{"pkg/60.json": plain, "pkg/50.json": other}, "/pkg/50.json"},
		"by name over directories":      {map[string]string{"pkg/50.json": plain, "home/fw/60.json": other}, "/pkg/50.json"},
		"replaced":                      {map[string]string{"pkg/50.json": plain, "etc/fw/50.json": other}, "/etc/fw/50.json"},
		"hidden":                        {map[string]string{"pkg/50.json": plain, "home/fw/50.json": "", "pkg/60.json": other}, "/pkg/60.json"},
		"no Secure Boot first":          {map[string]string{"pkg/50.json": variant(`"features": []`, `"features": ["secure-boot"]`), "pkg/60.json": other}, "/pkg/60.json"},
		"capable of Secure Boot":        {map[string]string{"pkg/50.json": variant(`"features": []`, `"features": ["secure-boot"]`)}, "/pkg/50.json"},
		"broken file does not matter":   {map[string]string{"pkg/10.json": "{", "pkg/20.json": "[]", "pkg/60.json": plain}, "/pkg/60.json"},
		"other files are not looked at": {map[string]string{"pkg/10.json.bak": other, "pkg/60.json": plain}, "/pkg/60.json"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := find(tree(tc.files), dirs, "x86_64")
			if err != nil {
				t.Fatal(err)
			}
			if got.Descriptor != tc.want {
				t.Errorf("found by %s, want %s", got.Descriptor, tc.want)
			}
		})
	}
}

func TestFindRejects(t *testing.T) {
	for name, tc := range map[string]struct{ text, why string }{
		"BIOS":             {variant("uefi", "bios"), "not UEFI"},
		"memory":           {variant(`"flash"`, `"memory"`), "not flash"},
		"kernel":           {variant(`"flash"`, `"kernel"`), "not flash"},
		"other machine":    {variant("pc-q35-*", "microvm"), "other machines"},
		"other arch":       {variant("x86_64", "riscv64"), "other machines"},
		"broken pattern":   {variant("pc-q35-*", "[pc"), "other machines"},
		"SMM":              {variant(`"features": []`, `"features": ["requires-smm"]`), "Secure Boot"},
		"enrolled":         {variant(`"features": []`, `"features": ["enrolled-keys"]`), "Secure Boot"},
		"unknown mode":     {variant(`"device": "flash"`, `"device": "flash", "mode": "x"`), "mode"},
		"no code":          {variant("/fw/code", ""), "mode"},
		"no variables":     {variant("/fw/vars", ""), "mode"},
		"code is missing":  {variant("/fw/code", "/fw/gone"), "missing"},
		"vars are missing": {variant("/fw/vars", "/fw/gone"), "missing"},
		"format":           {variant(`"raw"`, `"vmdk"`), "vmdk"},
		"huge":             {plain + strings.Repeat(" ", maxDescriptor), "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := find(tree(map[string]string{"pkg/50.json": tc.text}), []string{"/pkg", "/none"}, "x86_64")
			if !errors.Is(err, ErrNotFound) {
				t.Fatalf("%v, want ErrNotFound", err)
			}
			for _, want := range []string{"/pkg/50.json", tc.why, "install ovmf"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := find(tree(map[string]string{"pkg/50.json": plain}), []string{"/pkg"}, "sparc"); !errors.Is(err, ErrNotFound) {
		t.Errorf("sparc: %v, want ErrNotFound", err)
	}
}

func TestDirectories(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/cfg")
	got := Directories("/usr/local/bin/qemu-system-x86_64")
	want := []string{
		"/usr/share/qemu/firmware", "/usr/local/share/qemu/firmware", "/opt/local/share/qemu/firmware",
		"/opt/homebrew/share/qemu/firmware", "/etc/qemu/firmware", "/cfg/qemu/firmware",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !slices.Contains(Directories("/nix/qemu/bin/qemu-system-x86_64"), "/nix/qemu/share/qemu/firmware") {
		t.Error("descriptors beside the program are not looked for")
	}
}

// TestInstalled finds what is installed here, for both architectures.
func TestInstalled(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		u, err := Find(Directories(""), arch)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s: %+v", arch, u)
	}
}

func TestInstantiate(t *testing.T) {
	dir := t.TempDir()
	template := filepath.Join(dir, "template")
	content := make([]byte, 8<<20+123)
	copy(content[3<<20:], "variables")
	content[len(content)-1] = 7
	if err := os.WriteFile(template, content, 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "vars")
	if err := Instantiate(Image{Path: template, Format: "raw"}, path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Error("the copy differs from the template")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("takes %d bytes on disk", used)
	}

	if err := os.WriteFile(path, []byte("changed by the guest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Instantiate(Image{Path: template, Format: "raw"}, path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "changed by the guest" {
		t.Error("a machine's variables were reset")
	}
	if err := Instantiate(Image{Path: dir + "/none"}, dir+"/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no template: %v", err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTemplate(t *testing.T) {
	code, vars := Image{Path: "/c"}, Image{Path: "/v"}
	for mode, want := range map[Mode]Image{Split: vars, Combined: code, Stateless: {}} {
		got, ok := UEFI{Mode: mode, Code: code, Vars: vars}.Template()
		if got != want || ok != (want != Image{}) {
			t.Errorf("%s: %v, %v", mode, got, ok)
		}
	}
}
