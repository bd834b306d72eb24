// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
)

// message is user-data that is a MIME message.
type message struct {
	// kind is the header Content-Type, and body what follows the headers.
	kind, body string
	// encoding is the header Content-Transfer-Encoding.
	encoding string
	// configs are the decoded cloud-configs in the message.
	configs []string
}

const (
	// maxParts limits the parts of a message, in all levels, and maxNesting the levels.
	maxParts   = 64
	maxNesting = 4
)

// parseMessage parses a MIME message; ok is false for one that is damaged or too deep,
// which cloud-init may read in another way.
func parseMessage(text string) (m message, ok bool) {
	parsed, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		return message{}, false
	}
	body, err := io.ReadAll(parsed.Body)
	if err != nil {
		return message{}, false
	}
	m = message{kind: parsed.Header.Get("Content-Type"), encoding: parsed.Header.Get("Content-Transfer-Encoding"), body: string(body)}
	left := maxParts
	return m, m.collect(m.kind, m.encoding, m.body, &left, 0)
}

// collect adds the cloud-configs of a part.
func (m *message) collect(contentType, encoding, body string, left *int, depth int) bool {
	kind, params, err := mime.ParseMediaType(contentType)
	if *left--; err != nil || *left < 0 || depth > maxNesting {
		return false
	}
	if !strings.HasPrefix(kind, "multipart/") {
		text, ok := decodeBody(encoding, body)
		if kind == textConfig || kind == "text/plain" && headerOf(text) == headerConfig {
			m.configs = append(m.configs, text)
		}
		return ok
	}
	parts := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return false
		}
		raw, err := io.ReadAll(p)
		if err != nil {
			return false
		}
		inner := p.Header.Get("Content-Type")
		if inner == "" {
			inner = "text/plain"
		}
		if !m.collect(inner, p.Header.Get("Content-Transfer-Encoding"), string(raw), left, depth+1) {
			return false
		}
	}
}

// decodeBody returns the text of a part; ok is false if its encoding is damaged.
func decodeBody(encoding, body string) (text string, ok bool) {
	var from io.Reader = strings.NewReader(body)
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		from = base64.NewDecoder(base64.StdEncoding, from)
	case "quoted-printable":
		from = quotedprintable.NewReader(from)
	}
	raw, err := io.ReadAll(from)
	return string(raw), err == nil
}

// check checks the cloud-configs of a message. A line counts from the beginning of its part.
func (m *message) check() error {
	for _, c := range m.configs {
		if err := checkConfigText(c); err != nil {
			return err
		}
	}
	return nil
}

// form returns how the lab's account is added to the users of a message.
func (m *message) form(account string) accountForm {
	form := accountPresent
	for _, c := range m.configs {
		root, err := parseYAML(nameUserData, c)
		if _, ok := entries(root)["users"]; err != nil || !ok {
			continue
		}
		if form = accountFormOf(c, account); form == accountPresent {
			return form // one of the parts has it
		}
	}
	return form
}
