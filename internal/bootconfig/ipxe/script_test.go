// SPDX-License-Identifier: Apache-2.0

package ipxe

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

func example() Install {
	return Install{
		Name: "target-1", BaseURL: "http://192.168.89.1/m/c2VjcmV0LXRva2VuLW9uZQ/", Architecture: "x86_64",
		InitPath: "/pxelab-installer", URLArg: "pxelab.url", NetArg: "pxelab.net",
		PrefixLength: 24, Gateway: "192.168.89.1", MTU: 9000, OverlaySize: 6 << 20,
	}
}

func TestScripts(t *testing.T) {
	install := example()
	script, err := install.Script()
	if err != nil {
		t.Fatal(err)
	}
	assert.Check(t, golden.String(script, "install.ipxe"))

	install.Architecture = "aarch64"
	install.Gateway = ""
	install.MTU = 0
	install.OverlaySize = 6<<20 + 1
	install.KernelArgs = []string{"console=ttyAMA0,115200", "quiet"}
	if script, err = install.Script(); err != nil {
		t.Fatal(err)
	}
	assert.Check(t, golden.String(script, "install-arm64.ipxe"))
	assert.Check(t, golden.String(Disk("target-1"), "disk.ipxe"))
	assert.Check(t, golden.String(Autoexec("52:54:00:AA:BB:01", install.BaseURL+"boot.ipxe"), "autoexec.ipxe"))
	assert.Check(t, golden.String(Wait(install.BaseURL, "the image is 40% here"), "wait.ipxe"))
}

func TestScriptsPassCheckScript(t *testing.T) {
	install, err := example().Script()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{"install": install, "disk": Disk("x"), "wait": Wait("http://a/", "b")} {
		if err := CheckScript(script); err != nil {
			t.Errorf("CheckScript of %s: got error %v, want none", name, err)
		}
	}
	if CheckScript("echo hello\n") == nil {
		t.Error("CheckScript of a text without the first line: got no error, want one")
	}
}

func TestScriptRefusesKernelArgs(t *testing.T) {
	for name, args := range map[string][]string{
		"two in one": {"quiet splash"},
		"line break": {"quiet\nreboot"},
		"operator":   {"||"},
		"comment":    {"#quiet"},
		"empty":      {""},
		"too long":   {strings.Repeat("x", 2048)},
	} {
		t.Run(name, func(t *testing.T) {
			install := example()
			install.KernelArgs = args
			if _, err := install.Script(); err == nil {
				t.Errorf("Script with kernel arguments %q: got no error, want one", args)
			}
		})
	}
}

func TestDiskEscapesName(t *testing.T) {
	script := Disk("evil\nreboot ${net0/mac} && poweroff")
	if got := strings.Count(script, "\n"); got != 3 {
		t.Errorf("got %d lines, want 3:\n%s", got, script)
	}
	if strings.ContainsAny(script, "$&") {
		t.Errorf("got characters that iPXE expands, want none:\n%s", script)
	}
}
