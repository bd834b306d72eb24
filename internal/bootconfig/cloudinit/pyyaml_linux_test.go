// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// yamlTexts are texts on which YAML parsers differ, and whether parseYAML takes them.
var yamlTexts = map[string]bool{
	"runcmd: [ls]\n": true, "": true, "# a\n": true, "a: 1\na: 2\n": true, "a: b\tc\n": false, "a: 'b\tc'\n": true, "a: \"b\tc\"\n": true,
	"hostname:\tfoo\n": false, "a: b\t\n": false, "a: b\t# c\n": false, "a: b # c\td\n": true, "a: |\n  b\tc\n": true,
	"a: |\t\n  b\n": false, "a: >-\n  b\n\n\n  \tc\n": true, "- a: |\n    x\ty\n  b: \tz\n": false, "\t\na: 1\n": false,
	"a:\n  - b\n  -\tc\n": false, "{\n\t\"a\": 1\n}\n": false, "a: [b,\tc]\n": false, "a: it's\tx\n": false, "a: it's # \t\n": true,
	"a: b\n  \"c\n  d\"\te\n": false, "a: b\n  it's\nc: 'd\te'\n": true, "x: |2\n   a\tb\ny: 'a\tb'\n": true, "'a\tb': c\n": true,
	"a: 'it''s\tb'\n": true, "a: \"\\\"\tb\"\n": true, "? a\n: |\n b\tc\n": true, "a: &x |\n b\tc\n": true, "a: !!str |\n b\tc\n": true,
	"a: {b: 'c\td', e: \"f\tg\"}\n": true, "a: b|c\td\n": false, "a: x>y # \t\n": true,
	"a: 1\n...\n---\nb: 1\n": false, "---\na: 1\n": true, "a: 1\n...\n": true, "%YAML 1.1\n---\na: 1\n": true,
	"a: !vault x\n": false, "a: !!python/name:os.system x\n": false, "a: !!str 1\n": true, "a: ! 1\n": true, "a: !!binary aGk=\n": true,
	"a: =\n": false, "a: [test, a, =, b]\n": false, "a: '='\n": true, "a: <<\n": false, "<<: {a: 1}\n": true, "<<: [{a: 1}, {b: 1}]\n": true, "<<: 1\n": false,
	"a: 2024-02-30\n": false, "a: 2024-02-29\n": true, "a: 2023-02-29\n": false, "a: '2024-02-30'\n": true, "a: 0000-01-01\n": false,
	"a: 2024-01-01 25:00:00\n": false, "a: 2024-01-01T10:00:00Z\n": true, "a: 2024-13-01T10:00:00+01:00\n": false,
	"a: \"b\\/c\"\n": true, "a: \"b\\'c\"\n": false, "a: \"b\\qc\"\n": false, "a: \"b\\x41\\u0041\"\n": true, "{\"a\": \"http:\\/\\/x\"}\n": true,
	"? [a]\n: b\n": false, "? {a: 1}\n: b\n": false, "a: &x [1]\nb: *x\n": true, "a: *x\n": false, "\ufeffa: 1\n": true, "a: [\n": false,
	"a: 010\nb: 0x1F\nc: 1_000\nd: 12:30\ne: yes\n": true, "a: 0o14\n": true, "a: .inf\n": true, "a: ~\n": true, "1: a\n": true, "a: 'x\n": false,
}

// refusedHere are texts that PyYAML takes and that are refused here, with the reason.
var refusedHere = map[string]string{
	"a: 52:54:00:12:34:56\n": "a MAC address that is read as a number",
	"a: |\n  \tb\nc: d\n":    "the parser takes no tab at the beginning of a literal text",
}

func TestParseYAML(t *testing.T) {
	for text, good := range yamlTexts {
		if _, err := parseYAML("test", text); (err == nil) != good {
			t.Errorf("%q: got error %v, want accepted %v", text, err, good)
		}
	}
	for text, reason := range refusedHere {
		if _, err := parseYAML("test", text); err == nil {
			t.Errorf("%q: got no error, want one: %s", text, reason)
		}
	}
}

// TestParseYAMLAgreesWithPyYAML reads the same texts with the parser that cloud-init uses.
func TestParseYAMLAgreesWithPyYAML(t *testing.T) {
	texts := make([]string, 0, len(yamlTexts))
	for text := range yamlTexts {
		texts = append(texts, text)
	}
	in, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	const script = `
import json, sys, yaml
def good(text):
    try:
        yaml.safe_load(text)
        return True
    except (yaml.YAMLError, TypeError, ValueError):
        return False
json.dump([good(t) for t in json.load(sys.stdin)], sys.stdout)
`
	python := exec.Command("python3", "-c", script)
	python.Stdin = strings.NewReader(string(in))
	out, err := python.Output()
	if err != nil {
		t.Fatalf("PyYAML: %v (Debian: package cloud-init, which requires it; \"make deps\" installs it)", err)
	}
	var good []bool
	if err := json.Unmarshal(out, &good); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if good[i] != yamlTexts[text] {
			t.Errorf("%q: PyYAML accepts it: %v, want %v", text, good[i], yamlTexts[text])
		}
	}
}

func TestParseYAMLReportsLines(t *testing.T) {
	for text, want := range map[string]string{
		"a: 1\nhostname:\tfoo\n":                            "test, line 2: has a tab",
		"a: 1\n...\n---\nb: 1\n":                            "line 3: begins a second YAML document",
		"a: 1\nb: !vault |\n  x\n":                          "line 2: has the tag !vault",
		"a:\n  - [test, a, =, b]\n":                         `line 2: has "=" without quotes`,
		"a:\n- b: /x\n  c: 2024-02-30\n":                    "line 3: 2024-02-30 is a date that does not exist",
		"a: 1\nmac: 52:54:00:12:34:56\n":                    "line 2: the MAC address 52:54:00:12:34:56 without quotes is a number in base 60",
		"a: 1\nb: \"x\\'y\"\n":                              `line 2: has the escape \'`,
		"a: 1\nb: [\n":                                      "invalid YAML",
		strings.Repeat("[", 200) + strings.Repeat("]", 200): "nested deeper than 100",
		"a: &a [*a]\n":                                      "",
	} {
		_, err := parseYAML("test", text)
		if want == "" {
			continue // it must only end
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got error %v, want it to contain %q", text, err, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"#cloud-config\nruncmd: [ls]\n":                                       "",
		"#cloud-config\na: 1\na: 2\n":                                         `user-data, line 3: the key "a" occurs at line 2 already; cloud-init takes the last value`,
		"#cloud-config\nhostname: no\n":                                       "user-data, line 2: the value of hostname is not a text to cloud-init",
		"#cloud-config\nchpasswd:\n  users:\n  - {name: a, password: 0123}\n": "line 4: the value of password",
		"#cloud-config\nhostname: 'no'\n":                                     "",
		"#cloud-config\nhostname: {{ .Name }}\nfqdn: 12:30\n":                 "line 3: the value of fqdn",
		"#!/bin/sh\na: 1\na: 2\n":                                             "",
	} {
		got := strings.Join(Warnings(t.Context(), text), "\n")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: got warnings %q, want %q", text, got, want)
		}
	}
	if got := Warnings(t.Context(), "#cloud-config\n"+strings.Repeat("a:\n", 1000)); len(got) != maxWarnings {
		t.Errorf("got %d warnings, want %d", len(got), maxWarnings)
	}
}
