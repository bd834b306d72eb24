// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

type user struct {
	Name         string   `yaml:"name"`
	Gecos        string   `yaml:"gecos,omitempty"`
	Shell        string   `yaml:"shell"`
	LockPassword bool     `yaml:"lock_passwd"`
	Sudo         string   `yaml:"sudo"`
	Keys         []string `yaml:"ssh_authorized_keys,omitempty"`
}

func account(v Values) user {
	return user{
		Name: v.SSHUser, Gecos: "pxelab", Shell: "/bin/bash", LockPassword: true,
		Sudo: "ALL=(ALL) NOPASSWD:ALL", Keys: v.SSHAuthorizedKeys,
	}
}

// accountForm is the form of a "users" key to which the account is added.
type accountForm int

const (
	accountPresent accountForm = iota
	accountInList
	accountInMapping
)

// withAccount adds the lab's account to user-data that has users without it: a list, or
// a mapping of names to users. User-data with several parts gets another one.
func withAccount(text string, v Values) string {
	if v.SSHUser == "" {
		return text
	}
	kind, encoding, body := textConfig, "", text
	form := accountPresent
	switch headerOf(text) {
	case headerConfig:
		form = accountFormOf(text, v.SSHUser)
	case headerJinja:
		kind, form = "text/jinja2", jinjaForm(text)
	case headerMIME:
		m, ok := parseMessage(text)
		if !ok {
			return text
		}
		kind, encoding, body = m.kind, m.encoding, m.body
		form = m.form(v.SSHUser)
	}
	if form == accountPresent {
		return text
	}
	return multipartOf(part{kind, encoding, body}, part{textConfig, "", accountPart(v, form)})
}

// accountFormOf returns how the account is added to the users of a cloud-config.
func accountFormOf(text, account string) accountForm {
	root, err := parseYAML(nameUserData, text)
	users, ok := entries(root)["users"]
	switch {
	case err != nil || !ok:
		return accountPresent
	case users.value.Kind == yaml.MappingNode:
		if _, ok := entries(users.value)[account]; ok {
			return accountPresent
		}
		return accountInMapping
	case users.value.Kind != yaml.SequenceNode || names(users.value)[account]:
		return accountPresent
	}
	return accountInList
}

var (
	usersLine    = regexp.MustCompile(`(?m)^users[ \t]*:`)
	usersMapping = regexp.MustCompile(`(?m)^users[ \t]*:[ \t]*(?:\{|(?:#.*)?\r?\n(?:[ \t]*(?:#.*)?\r?\n)*[ \t]+[^-\s#{\[])`)
)

// jinjaForm guesses how the account is added: a template becomes YAML only when it is
// rendered in the machine.
func jinjaForm(text string) accountForm {
	switch {
	case usersMapping.MatchString(text):
		return accountInMapping
	case usersLine.MatchString(text):
		return accountInList
	}
	return accountPresent
}

// accountPart returns a cloud-config that adds the account to the users of earlier parts.
func accountPart(v Values, form accountForm) string {
	var users any = []user{account(v)}
	if form == accountInMapping {
		users = map[string]user{v.SSHUser: account(v)}
	}
	return marshal("#cloud-config\n", struct {
		MergeHow string `yaml:"merge_how"`
		Users    any    `yaml:"users"`
	}{"list(append)+dict(no_replace,recurse_list)+str()", users})
}

// names returns the user names in a cloud-config users list.
func names(users *yaml.Node) map[string]bool {
	found := map[string]bool{}
	for _, u := range users.Content {
		switch u = resolved(u); u.Kind {
		case yaml.ScalarNode:
			for _, name := range strings.Split(u.Value, ",") {
				found[strings.TrimSpace(name)] = true
			}
		case yaml.MappingNode:
			if name, ok := entries(u)["name"]; ok {
				found[name.value.Value] = true
			}
		}
	}
	return found
}

// part is one document of a MIME message.
type part struct{ kind, encoding, text string }

const textConfig = "text/cloud-config"

// multipartOf joins parts into one MIME message.
func multipartOf(parts ...part) string {
	var body, all bytes.Buffer
	for _, p := range parts {
		all.WriteString(p.text + "\n")
	}
	w := multipart.NewWriter(&body)
	// A boundary that depends only on the parts keeps this function pure.
	boundary := "pxelab-partx"
	if bytes.Contains(all.Bytes(), []byte("pxelab-part")) {
		// The text cannot contain its own digest.
		boundary = fmt.Sprintf("pxelab-part-%x", sha256.Sum224(all.Bytes()))
	}
	if err := w.SetBoundary(boundary); err != nil {
		panic("setting the MIME boundary: " + err.Error())
	}
	for i, p := range parts {
		header := textproto.MIMEHeader{
			"Content-Type":        {p.kind},
			"Content-Disposition": {fmt.Sprintf(`attachment; filename="pxelab-%03d"`, i+1)},
		}
		if !strings.Contains(p.kind, ";") {
			header.Set("Content-Type", p.kind+`; charset="utf-8"`)
		}
		if p.encoding != "" {
			header.Set("Content-Transfer-Encoding", p.encoding)
		}
		to, err := w.CreatePart(header)
		if err == nil {
			_, err = to.Write([]byte(p.text))
		}
		if err != nil {
			panic("writing to memory: " + err.Error())
		}
	}
	if err := w.Close(); err != nil {
		panic("writing to memory: " + err.Error())
	}
	return "Content-Type: multipart/mixed; boundary=\"" + boundary + "\"\nMIME-Version: 1.0\n\n" +
		strings.ReplaceAll(body.String(), "\r\n", "\n")
}
