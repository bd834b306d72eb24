// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/hostfs"
)

// layout returns the file system of one distribution from testdata/<name>/: its
// descriptors, and the firmware files listed in "files".
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
	const (
		system   = "/usr/share/qemu/firmware"
		homebrew = "/opt/homebrew/share/qemu/firmware"
		cellar   = "/opt/homebrew/Cellar/qemu/9.2.0/share/qemu/"
	)
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
		{
			"fedora", system, "aarch64",
			qcow2("/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.qcow2"),
			qcow2("/usr/share/edk2/aarch64/vars-template-pflash.qcow2"), Split,
		},
		{"homebrew", homebrew, "x86_64", raw(cellar + "edk2-x86_64-code.fd"), raw(cellar + "edk2-i386-vars.fd"), Split},
		{"homebrew", homebrew, "aarch64", raw(cellar + "edk2-aarch64-code.fd"), raw(cellar + "edk2-arm-vars.fd"), Split},
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
				t.Errorf("firmware (-want +got):\n%s", diff)
			}
			if filepath.Dir(got.Descriptor) != tc.dir {
				t.Errorf("got descriptor %s, want one in %s", got.Descriptor, tc.dir)
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

// variant returns plain with one replacement.
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
	secure := variant(`"features": []`, `"features": ["secure-boot"]`)
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"file name":                  {map[string]string{"pkg/60.json": plain, "pkg/50.json": other}, "/pkg/50.json"},
		"file name before directory": {map[string]string{"pkg/50.json": plain, "home/fw/60.json": other}, "/pkg/50.json"},
		"overridden":                 {map[string]string{"pkg/50.json": plain, "etc/fw/50.json": other}, "/etc/fw/50.json"},
		"masked": {
			map[string]string{"pkg/50.json": plain, "home/fw/50.json": "", "pkg/60.json": other}, "/pkg/60.json",
		},
		"without Secure Boot before capable": {map[string]string{"pkg/50.json": secure, "pkg/60.json": other}, "/pkg/60.json"},
		"only capable of Secure Boot":        {map[string]string{"pkg/50.json": secure}, "/pkg/50.json"},
		"invalid files are skipped":          {map[string]string{"pkg/10.json": "{", "pkg/20.json": "[]", "pkg/60.json": plain}, "/pkg/60.json"},
		"other extensions are ignored":       {map[string]string{"pkg/10.json.bak": other, "pkg/60.json": plain}, "/pkg/60.json"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := find(tree(tc.files), dirs, "x86_64")
			if err != nil {
				t.Fatal(err)
			}
			if got.Descriptor != tc.want {
				t.Errorf("got descriptor %s, want %s", got.Descriptor, tc.want)
			}
		})
	}
}

func TestFindRejects(t *testing.T) {
	for name, tc := range map[string]struct{ text, reason string }{
		"BIOS":             {variant("uefi", "bios"), "not UEFI"},
		"memory":           {variant(`"flash"`, `"memory"`), "not flash"},
		"kernel":           {variant(`"flash"`, `"kernel"`), "not flash"},
		"other machine":    {variant("pc-q35-*", "microvm"), "machine types"},
		"other arch":       {variant("x86_64", "riscv64"), "other architectures"},
		"broken pattern":   {variant("pc-q35-*", "[pc"), "machine types"},
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
				t.Fatalf("find = %v, want ErrNotFound", err)
			}
			for _, want := range []string{"/pkg/50.json", tc.reason, "install ovmf"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %q, want it to contain %q", err, want)
				}
			}
		})
	}
	if _, err := find(tree(map[string]string{"pkg/50.json": plain}), []string{"/pkg"}, "sparc"); !errors.Is(err, ErrNotFound) {
		t.Errorf("find for sparc = %v, want ErrNotFound", err)
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
		t.Errorf("directories (-want +got):\n%s", diff)
	}
	if !slices.Contains(Directories("/nix/qemu/bin/qemu-system-x86_64"), "/nix/qemu/share/qemu/firmware") {
		t.Error("the directory next to the QEMU program is missing")
	}
}

// TestFindInstalled finds the firmware installed on this host for both
// architectures.
func TestFindInstalled(t *testing.T) {
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
		t.Errorf("the copy of %d bytes differs from the template of %d bytes", len(got), len(content))
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, want 0600", info.Mode())
	}
	if used := hostfs.AllocatedBytes(info); used > 1<<20 {
		t.Errorf("the copy uses %d bytes on disk, want at most 1 MiB", used)
	}

	if err := os.WriteFile(path, []byte("changed by the guest"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Instantiate(Image{Path: template, Format: "raw"}, path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "changed by the guest" {
		t.Errorf("got %d bytes, want the existing variables unchanged", len(got))
	}
	if err := Instantiate(Image{Path: dir + "/none"}, dir+"/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Instantiate without a template = %v, want ErrNotExist", err)
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 2 {
		t.Errorf("got files %v, want only the template and its copy", left)
	}
}

func TestTemplate(t *testing.T) {
	code, vars := Image{Path: "/c"}, Image{Path: "/v"}
	for mode, want := range map[Mode]Image{Split: vars, Combined: code, Stateless: {}} {
		got, ok := UEFI{Mode: mode, Code: code, Vars: vars}.Template()
		if got != want || ok != (want != Image{}) {
			t.Errorf("Template in mode %s = %v, %v; want %v", mode, got, ok, want)
		}
	}
}
