// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

func values() Values {
	return Values{
		Name: "target-1", Hostname: "target-1", InstanceID: "target-1-a1", Architecture: "x86_64",
		MAC: "52:54:00:AA:BB:01", Address: "192.168.89.11", PrefixLength: 24,
		Gateway: "192.168.89.1", DNS: []string{"10.0.2.3"}, Domain: "lab.internal", MTU: 9000,
		ServerAddress: "192.168.89.1", ServerURL: "http://192.168.89.1/",
		SeedBaseURL: "http://192.168.89.1/m/c2VjcmV0LXRva2VuLW9uZQ/",
		SSHUser:     "lab",
		SSHAuthorizedKeys: []string{
			"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake user@host",
		},
		Parameters: map[string]string{"role": "web"},
	}
}

func serverOptions() ServerOptions {
	return ServerOptions{
		InstanceID: "server-1", Hostname: "lab-server", SSHUser: "lab", SSHAuthorizedKeys: values().SSHAuthorizedKeys,
		UplinkMAC: "52:54:00:00:00:01", LabMAC: "52:54:00:00:00:02",
		LabAddress: netip.MustParsePrefix("192.168.89.1/24"), LabMTU: 9000,
	}
}

const userTemplate = `#cloud-config
hostname: {{ .Hostname }}
write_files:
  - path: /etc/role
    content: {{ .Parameters.role | quote }}
  - path: /etc/zone
    content: {{ index .Parameters "zone" | default "none" | quote }}
  - path: /etc/lab.json
    encoding: b64
    content: {{ toJson .Parameters | b64enc }}
`

func TestDocuments(t *testing.T) {
	v := values()
	assert.Check(t, golden.String(VendorData(v), "vendor-data.mime"))
	assert.Check(t, golden.String(MetaData(v), "meta-data.yaml"))
	for name, template := range map[string]string{
		"user-data.yaml":         userTemplate,
		"user-data-default.yaml": "",
		"user-data-users.mime":   "#cloud-config\nusers:\n  - default\n  - name: alice\n",
	} {
		text, err := RenderUserData(t.Context(), template, v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		assert.Check(t, golden.String(text, name))
	}
	network, err := RenderNetworkConfig(t.Context(), "", v)
	if err != nil {
		t.Fatal(err)
	}
	assert.Check(t, golden.String(network, "network-config.yaml"))
	v.Gateway = ""
	v.DNS = nil
	v.MTU = 0
	if network, err = RenderNetworkConfig(t.Context(), "", v); err != nil {
		t.Fatal(err)
	}
	assert.Check(t, golden.String(network, "network-config-isolated.yaml"))
}

func TestServerDocuments(t *testing.T) {
	o := serverOptions()
	assert.Check(t, golden.String(ServerUserData(o), "server-user-data.yaml"))
	assert.Check(t, golden.String(ServerMetaData(o), "server-meta-data.yaml"))
	network, err := ServerNetworkConfig(o)
	if err != nil {
		t.Fatal(err)
	}
	assert.Check(t, golden.String(network, "server-network-config.yaml"))
	o.LabMAC = strings.ToUpper(o.UplinkMAC)
	if _, err := ServerNetworkConfig(o); err == nil {
		t.Error("ServerNetworkConfig with one MAC address of two NICs: got no error, want one")
	}
}

func TestRenderUserDataAddsAccountToUsersList(t *testing.T) {
	for name, c := range map[string]struct {
		text      string
		user      string
		multipart bool
	}{
		"no users":           {"#cloud-config\npackages: []\n", "lab", false},
		"users":              {"#cloud-config\nusers: [default]\n", "lab", true},
		"users with account": {"#cloud-config\nusers:\n  - name: lab\n", "lab", false},
		"mapping":            {"#cloud-config\nusers:\n  bob: {}\n  alice: {sudo: false}\n", "lab", true},
		"mapping with it":    {"#cloud-config\nusers: {lab: {}}\n", "lab", false},
		"names in one text":  {"#cloud-config\nusers: ['bob, lab']\n", "lab", false},
		"merged in":          {"#cloud-config\nx: &x {users: [bob]}\n<<: *x\n", "lab", true},
		"jinja, mapping":     {"## template: jinja\n#cloud-config\nusers:\n  # one\n  bob: {}\n", "lab", true},
		"no account":         {"#cloud-config\nusers: [default]\n", "", false},
		"script":             {"#!/bin/sh\nusers: x\n", "lab", false},
		"jinja":              {"## template: jinja\n#cloud-config\nusers: [default]\n", "lab", true},
	} {
		t.Run(name, func(t *testing.T) {
			v := values()
			v.SSHUser = c.user
			out, err := RenderUserData(t.Context(), c.text, v)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.HasPrefix(out, "Content-Type: multipart/"); got != c.multipart {
				t.Errorf("got multipart %v, want %v:\n%s", got, c.multipart, out)
			}
		})
	}
}

// The account is added in the form that the users have: cloud-init merges only lists with
// lists and mappings with mappings.
func TestRenderUserDataAddsAccountInForm(t *testing.T) {
	mime := "Content-Type: text/cloud-config; charset=\"utf-8\"\nMIME-Version: 1.0\n\n"
	parts := "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x\nContent-Type: text/cloud-config\n\n" +
		"users: [bob]\n--x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--x--\n"
	for name, c := range map[string]struct{ text, want string }{
		"list":             {"#cloud-config\nusers: [bob]\n", "users:\n  - name: lab\n"},
		"mapping":          {"#cloud-config\nusers: {bob: {}}\n", "users:\n  lab:\n    name: lab\n"},
		"jinja, list":      {"## template: jinja\n#cloud-config\nusers:\n\n - bob\n", "users:\n  - name: lab\n"},
		"jinja, mapping":   {"## template: jinja\n#cloud-config\nusers: {bob: {}}\n", "users:\n  lab:\n"},
		"one part":         {mime + "#cloud-config\nusers: [bob]\n", "users:\n  - name: lab\n"},
		"one part, base64": {strings.Replace(mime, "MIME", "Content-Transfer-Encoding: base64\nMIME", 1) + "dXNlcnM6IHtib2I6IHt9fQo=\n", "users:\n  lab:\n"},
		"parts":            {parts, "users:\n  - name: lab\n"},
	} {
		t.Run(name, func(t *testing.T) {
			v := values()
			v.SSHUser = "lab"
			out, err := RenderUserData(t.Context(), c.text, v)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out, c.want) || !strings.HasPrefix(out, "Content-Type: multipart/mixed") {
				t.Errorf("got %s\nwant another part with %q", out, c.want)
			}
		})
	}
}

// A template that was written for another tool gets an error that explains how to write
// its braces.
func TestTemplateErrorExplainsForeignBraces(t *testing.T) {
	for name, c := range map[string]struct{ text, want, fixed string }{
		"docker": {
			"#cloud-config\nruncmd:\n  - docker ps --format '{{.Names}}'\n", literalHint,
			"#cloud-config\nruncmd:\n  - docker ps --format '{{ \"{{.Names}}\" }}'\n",
		},
		"jinja": {
			"## template: jinja\n#cloud-config\nruncmd:\n  - echo {{ v1.local_hostname }}\n", literalHint,
			"## template: jinja\n#cloud-config\nruncmd:\n  - echo {{ \"{{ v1.local_hostname }}\" }}\n",
		},
		"ansible":  {"#cloud-config\nruncmd: [\"echo {{ item }}\"]\n", literalHint, "#cloud-config\nruncmd: [\"echo {{ \"{{ item }}\" }}\"]\n"},
		"mustache": {"#cloud-config\nruncmd: [\"echo {{#a}}\"]\n", literalHint, "#cloud-config\nruncmd: [\"echo {{ \"{{#a}}\" }}\"]\n"},
		"github":   {"#cloud-config\nruncmd: [\"echo ${{ secrets.X }}\"]\n", literalHint, "#cloud-config\nruncmd: [\"echo ${{ \"{{ secrets.X }}\" }}\"]\n"},
		"a dash": {
			"#cloud-config\nruncmd: [\"echo {{ .Parameters.my-key }}\"]\n", dashHint,
			"#cloud-config\nruncmd: [\"echo {{ index .Parameters \"my-key\" }}\"]\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := Validate(t.Context(), c.text)
			var bad *TemplateError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) || bad.Line < 2 {
				t.Errorf("got error %v, want a *TemplateError with its line and %q", err, c.want)
			}
			if err := Validate(t.Context(), c.fixed); err != nil {
				t.Errorf("as the hint has it: got error %v, want none", err)
			}
		})
	}
}

func TestTemplateErrorHasLocation(t *testing.T) {
	for name, c := range map[string]struct {
		template string
		want     TemplateError
	}{
		"missing parameter": {"#cloud-config\na: 1\nb: {{ .Parameters.zone }}\n", TemplateError{Line: 3, Missing: "zone"}},
		"missing value":     {"#cloud-config\na: {{ .Nothing }}\n", TemplateError{Line: 2, Missing: "Nothing"}},
		"does not parse":    {"#cloud-config\na: {{ if }}\n", TemplateError{Line: 2}},
		"unknown function":  {"#cloud-config\n\na: {{ env \"HOME\" }}\n", TemplateError{Line: 3}},
		"not closed":        {"#cloud-config\na: {{ .Name\n", TemplateError{Line: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RenderUserData(t.Context(), c.template, values())
			var got *TemplateError
			if !errors.As(err, &got) {
				t.Fatalf("got error %#v, want a *TemplateError", err)
			}
			c.want.Template = "user-data"
			if diff := cmp.Diff(c.want, *got, cmpopts.IgnoreFields(TemplateError{}, "Err", "Hint")); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderTemplateIsLimited(t *testing.T) {
	for name, template := range map[string]string{
		"loop without output": `{{ range 1000000000 }}{{ end }}`,
		"loop with output":    `{{ range 1000000000 }}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{ end }}`,
		"nested loops":        `{{ range 10000 }}{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}{{ end }}`,
		"recursion":           `{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`,
		"doubling":            `{{ $x := "xxxxxxxx" }}{{ range 100 }}{{ $x = printf "%s%s" $x $x }}{{ end }}`,
		"doubling by print":   `{{ $x := "xxxxxxxx" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}`,
		"doubling by html":    `{{ $x := "<<<<<<<<" }}{{ range 100 }}{{ $x = html $x $x }}{{ end }}`,
		"wide":                `{{ printf "%999999999d" 1 }}`,
		"wide by star":        `{{ printf "%*d" 999999999 1 }}`,
		"indent":              `{{ indent 1000000000 "x" }}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RenderTemplate(t.Context(), "user-data", template, values())
			if !errors.Is(err, ErrTooLong) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("got error %v, want ErrTooLong or ErrTooLarge", err)
			}
		})
	}
}

func TestCheckUserData(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		bad  string
	}{
		"config":           {"#cloud-config\npackages: [vim]\n", ""},
		"empty config":     {"#cloud-config\n", ""},
		"script":           {"#!/bin/sh\necho phone_home: no\n", ""},
		"jinja":            {"## template: jinja\n#cloud-config\nhostname: {{ v1.x }}\n", ""},
		"mime":             {"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x--\n", ""},
		"vendor data on":   {"#cloud-config\nvendor_data: {enabled: true}\n", ""},
		"no header":        {"packages: [vim]\n", "must begin with"},
		"empty":            {"", "must begin with"},
		"header not first": {"\n#cloud-config\n", ""},
		"header, comment":  {"#cloud-config  # managed by ansible\nruncmd: [ls]\n", ""},
		"header, case":     {"#Cloud-Config\nruncmd: [ls]\n", ""},
		"one MIME part":    {"Content-Type: text/cloud-config; charset=\"utf-8\"\nMIME-Version: 1.0\n\n#cloud-config\nruncmd: [ls]\n", ""},
		"bad MIME part":    {"Content-Type: text/cloud-config\nMIME-Version: 1.0\n\n#cloud-config\nruncmd: [\n", "invalid YAML"},
		"MIME, no version": {"Content-Type: text/cloud-config\n\n#cloud-config\n", "must begin with"},
		"space before #!":  {"\n#!/bin/sh\n", "space before"},
		"users as text":    {"#cloud-config\nusers: bob,alice\n", "users is neither a list nor a mapping"},
		"phone home in base64": {
			"Content-Type: text/cloud-config\nContent-Transfer-Encoding: base64\nMIME-Version: 1.0\n\ncGhvbmVfaG9tZToge3VybDogeH0K\n", "phone_home",
		},
		"not a mapping": {"#cloud-config\n- a\n", "must be a mapping"},
		"invalid YAML":  {"#cloud-config\na: [\n", "invalid YAML"},
		"key twice":     {"#cloud-config\na: 1\na: 2\n", ""},
		"phone home":    {"#cloud-config\nphone_home: {url: http://x/}\n", "phone_home"},
		"phone home in mime": {
			"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x\n\n#cloud-config\nphone_home:\n  url: x\n--x--\n", "phone_home",
		},
		"vendor data off":      {"#cloud-config\nvendor_data: {enabled: false}\n", "vendor_data"},
		"vendor data off text": {"#cloud-config\nvendor_data: {enabled: 'no'}\n", "vendor_data"},
		"final modules":        {"#cloud-config\ncloud_final_modules: [scripts-user]\n", "phone-home"},
		"final modules good":   {"#cloud-config\ncloud_final_modules: [scripts-user, phone_home]\n", ""},
		"large":                {"#cloud-config\na: " + strings.Repeat("x", maxUserData), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckUserData(c.text)
			var content *ContentError
			switch {
			case c.bad == "" && err != nil:
				t.Error(err)
			case c.bad != "" && (!errors.As(err, &content) || !strings.Contains(err.Error(), c.bad)):
				t.Errorf("got error %v, want a *ContentError with %q", err, c.bad)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		template string
		good     bool
	}{
		"none":               {"", true},
		"template":           {userTemplate, true},
		"header by action":   {"{{ if eq .Architecture \"x86_64\" }}#cloud-config\n{{ end }}", true},
		"parameter as lines": {"#cloud-config\n{{ .Parameters.extra }}\n", true},
		"range":              {"#cloud-config\nssh_authorized_keys:\n{{ range .SSHAuthorizedKeys }}  - {{ quote . }}\n{{ end }}", true},
		"static, no YAML":    {"#cloud-config\na: [\n", false},
		"no header":          {"hostname: {{ .Name }}\n", false},
		"unknown value":      {"#cloud-config\nhostname: {{ .HostName }}\n", false},
		"phone home":         {"#cloud-config\nphone_home:\n  url: {{ .ServerURL }}\n", false},
		"does not parse":     {"#cloud-config\n{{ range }}", false},
		"methods are values": {"#cloud-config\na: {{ .SeedURL }}\n", true},
		"unknown function":   {"#cloud-config\na: {{ readFile \"/etc/shadow\" }}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Validate(t.Context(), c.template); (err == nil) != c.good {
				t.Errorf("got error %v, want valid %v", err, c.good)
			}
		})
	}
}

func TestRenderNetworkConfigChecksResult(t *testing.T) {
	for name, c := range map[string]struct {
		template string
		good     bool
	}{
		"version 2":      {"version: 2\nethernets:\n  a:\n    match: {macaddress: {{ quote .MAC }}}\n    dhcp4: true\n", true},
		"version 1":      {"version: 1\nconfig: []\n", true},
		"outer key":      {"network:\n  version: 2\n", false},
		"no version":     {"ethernets: {}\n", false},
		"not a mapping":  {"- 1\n", false},
		"does not parse": {"version: {{\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := RenderNetworkConfig(t.Context(), c.template, values()); (err == nil) != c.good {
				t.Errorf("RenderNetworkConfig: got error %v, want valid %v", err, c.good)
			}
			if err := ValidateNetworkConfig(t.Context(), c.template); c.good && err != nil {
				t.Errorf("ValidateNetworkConfig: got error %v, want none", err)
			}
		})
	}
}

func TestParameters(t *testing.T) {
	got := Parameters(`{{ .Parameters.b }}{{ if .Parameters.a }}{{ .Name }}{{ end }}{{ index .Parameters "c" }}{{ .Parameters.b }}`)
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
}

func FuzzRenderUserData(f *testing.F) {
	for _, seed := range []string{
		userTemplate, "", "#cloud-config\nusers: [default]\n", "#cloud-config\n{{ range 3 }}{{ . }}{{ end }}",
		"#cloud-config\n{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}",
		"#cloud-config\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "{{ printf \"%*d\" 9 9 }}", "#cloud-config\n? {a: 1}\n: 2\n",
		"## template: jinja\n#cloud-config\nusers:\n", "{{ .Parameters.x | default | indent 3 }}",
		"#cloud-config\nusers: [[1], null, {name: {}}]\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, template string) {
		out, err := RenderUserData(t.Context(), template, values())
		if err != nil {
			var bad *TemplateError
			var content *ContentError
			if !errors.As(err, &bad) && !errors.As(err, &content) {
				t.Errorf("got error of type %T, want a *TemplateError or *ContentError: %v", err, err)
			}
			return
		}
		if err := CheckUserData(out); err != nil {
			t.Errorf("CheckUserData refuses the rendered user-data: %v\n%s", err, out)
		}
		_ = Validate(t.Context(), template)
	})
}
