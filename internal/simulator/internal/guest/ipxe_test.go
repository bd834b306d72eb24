// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ranScript runs a script without a network and returns what it printed.
func ranScript(t testing.TB, script string) (output string, err error) {
	t.Helper()
	var out console
	g := New(Config{UUID: testUUID, Serial: &out, NICs: []NIC{{ID: testNIC, MAC: testMAC}}})
	x := &ipxe{g: g, nic: g.nics[0], settings: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = x.run(ctx, &ipxeImage{name: "test", script: []byte("#!ipxe\n" + script)}, 0)
	return strings.ReplaceAll(out.String(), "\r\n", "\n"), err
}

func TestScript(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"operators": {
			"iseq a b && echo no || echo yes\niseq a a && echo yes || echo no\nfoo ||\necho go ahead ; echo and on\n",
			"yes\nyes\nfoo: command not found\ngo ahead\nand on\n",
		},
		"settings":  {"set a b\nset ab c\necho ${a}${a${a}} ${missing}.\nclear a\nisset ${a} || echo unset\n", "bc .\nunset\n"},
		"machine":   {"echo ${net0/mac} ${mac:hexhyp} ${netX/mac:hexraw} ${uuid} ${platform} ${buildarch} ${net1/mac}\n", testMAC.String() + " 52-54-00-aa-bb-01 525400aabb01 " + testUUID + " efi x86_64\n"},
		"quotes":    {"echo 'a  b' \"c # d\" e # comment\n", "a  b c # d e\n"},
		"loop":      {"set n:int32 0\n:again\ninc n\necho ${n}\niseq ${n} 3 || goto again\n", "1\n2\n3\n"},
		"label":     {"goto end\necho no\n:end\necho yes\n", "yes\n"},
		"failure":   {"initrd --name initrd http://10.9.0.1/initrd || goto failed\n:failed\nset code ${errno}\necho ${code}\n", "http://10.9.0.1/initrd... No such device (https://ipxe.org/2c048001)\n0x2c048001\n"},
		"no ending": {"echo a\r\necho ${", "a\n${\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ranScript(t, c.script)
			if err != nil {
				t.Errorf("got error %v, want none", err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScriptEnds(t *testing.T) {
	var failure *ipxeError
	for script, want := range map[string]func(error) bool{
		"exit\n":                 func(err error) bool { return err == nil },
		"exit 0\n":               func(err error) bool { return err == nil },
		"exit 1\necho a\n":       func(err error) bool { return errors.As(err, &failure) && failure.code == 1 },
		"foo\necho a\n":          func(err error) bool { return errors.Is(err, errIPXECommand) },
		"goto nowhere\n":         func(err error) bool { return errors.Is(err, errIPXENoLabel) },
		"reboot\n":               func(err error) bool { return errors.As(err, &resetError{}) },
		"poweroff\n":             func(err error) bool { return errors.Is(err, errPowerOff) },
		"sanboot --drive 0x80\n": func(err error) bool { return errors.Is(err, errBootDisk) },
		"shell\n":                func(err error) bool { return errors.Is(err, errShell) },
		":a\ngoto a\n":           func(err error) bool { return errors.Is(err, errShell) },
		"boot\n":                 func(err error) bool { return errors.Is(err, errIPXENoLabel) },
	} {
		if out, err := ranScript(t, script); !want(err) || strings.Contains(out, "a\n") {
			t.Errorf("%q: got error %v and output %q, want another end", script, err, out)
		}
	}
}

// TestBootKernel checks the command line that a kernel gets.
func TestBootKernel(t *testing.T) {
	g := New(Config{NICs: []NIC{{ID: testNIC, MAC: testMAC}}})
	x := &ipxe{g: g, nic: g.nics[0], settings: map[string]string{}, images: []*ipxeImage{{name: "k", size: 1}, {name: "empty"}}}
	var start bootKernel
	script := "kernel k a=${net0/mac} quiet\nboot\n"
	err := x.run(t.Context(), &ipxeImage{script: []byte("#!ipxe\n" + script)}, 0)
	if want := "a=" + testMAC.String() + " quiet"; !errors.As(err, &start) || start.cmdline != want {
		t.Errorf("got %#v, want a kernel with the arguments %q", err, want)
	}
	err = x.run(t.Context(), &ipxeImage{script: []byte("#!ipxe\nimgargs k b\nchain k\n")}, 0)
	if !errors.As(err, &start) || start.cmdline != "b" {
		t.Errorf("got %#v, want a kernel with the arguments \"b\"", err)
	}
	if err = x.run(t.Context(), &ipxeImage{script: []byte("#!ipxe\nchain empty\n")}, 0); !errors.Is(err, errIPXEExec) {
		t.Errorf("empty file: got error %v, want %v", err, errIPXEExec)
	}
}

func TestScriptSink(t *testing.T) {
	for name, c := range map[string]struct {
		parts []string
		want  int
	}{
		"script": {[]string{"#!ip", "xe\necho ", "a\n"}, 14},
		"binary": {[]string{"\x7fELF", strings.Repeat("x", 1000)}, len(scriptMagic)},
		"large":  {[]string{"#!ipxe\n", strings.Repeat("x", 2*maxScript)}, maxScript},
	} {
		var s scriptSink
		size := 0
		for _, p := range c.parts {
			n, err := s.Write([]byte(p))
			if n != len(p) || err != nil {
				t.Errorf("%s: Write = %d, %v, want %d", name, n, err, len(p))
			}
			size += n
		}
		if len(s.kept) > c.want || s.size != int64(size) {
			t.Errorf("%s: kept %d of %d bytes, want at most %d of %d", name, len(s.kept), s.size, c.want, size)
		}
	}
}

func FuzzScript(f *testing.F) {
	f.Add("echo ${net0/mac} || goto a\n:a\nset b ${c:int32}\n")
	f.Add("set a ${a}${a}\ngoto a\n:a\ninc n\n")
	f.Fuzz(func(t *testing.T, script string) {
		if strings.Contains(script, "sleep") || strings.Contains(script, "prompt") || strings.Contains(script, "dhcp") ||
			strings.Contains(script, "ifconf") || strings.Contains(script, "autoboot") {
			return // these wait
		}
		_, _ = ranScript(t, script)
	})
}
