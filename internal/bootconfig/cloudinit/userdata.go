// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template names in errors.
const (
	nameUserData      = "user-data"
	nameNetworkConfig = "network-config"
)

// maxUserData is a size, in bytes, that NoCloud and similar data sources accept.
const maxUserData = 512 << 10

// DefaultUserData is the user-data of a machine without a template: an empty
// document, since vendor-data configures account and reporting.
const DefaultUserData = "#cloud-config\n{}\n"

// ContentError reports a document that cloud-init would not accept, or that
// disables what the target's readiness depends on.
type ContentError struct {
	// Document is "user-data" or "network-config".
	Document string
	// Line counts from 1; 0 if unknown.
	Line    int
	Message string
}

func (e *ContentError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s, line %d: %s", e.Document, e.Line, e.Message)
	}
	return e.Document + ": " + e.Message
}

// RenderUserData renders the template (DefaultUserData if empty) and checks the
// result. cloud-init ignores the users list of vendor-data, with the lab's
// account, if user-data has one; RenderUserData then adds the account in a
// second part, which cloud-init appends. The error is a *TemplateError or a
// *ContentError.
func RenderUserData(ctx context.Context, text string, v Values) (string, error) {
	if text == "" {
		text = DefaultUserData
	}
	out, err := RenderTemplate(ctx, nameUserData, text, v)
	if err != nil {
		return "", err
	}
	if err := CheckUserData(out); err != nil {
		return "", err
	}
	return withAccount(out, v), nil
}

type header int

const (
	headerNone header = iota
	headerConfig
	headerJinja
	headerMIME
	headerScript
	headerOther
)

// headers are the beginnings by which cloud-init recognizes a type, in lower case. Of two
// that fit, the longer one counts (cloud-init's INCLUSION_TYPES_MAP).
var headers = []struct {
	prefix string
	kind   header
}{
	{"#cloud-config-archive", headerOther},
	{"#cloud-config-jsonp", headerOther},
	{"## template: jinja", headerJinja},
	{"#cloud-boothook", headerOther},
	{"#part-handler", headerOther},
	{"#cloud-config", headerConfig},
	{"#include", headerOther}, // also #include-once
	{"#!", headerScript},
}

// mimeHead is how much of user-data cloud-init searches for a MIME header, in bytes.
const mimeHead = 4096

// headerOf determines the type of user-data as cloud-init does: in upper or lower case,
// and after blank lines.
func headerOf(text string) header {
	if strings.Contains(strings.ToLower(text[:min(len(text), mimeHead)]), "mime-version:") {
		return headerMIME
	}
	lower := strings.ToLower(strings.TrimLeft(text[:min(len(text), mimeHead)], " \t\r\n\v\f"))
	for _, h := range headers {
		if strings.HasPrefix(lower, h.prefix) {
			return h.kind
		}
	}
	return headerNone
}

func errHeader() error {
	return &ContentError{nameUserData, 1, `cloud-init would ignore this; the first line must begin with "#cloud-config" (or "#!", ` +
		`"## template: jinja", "#cloud-config-archive", "#cloud-boothook", "#include" or MIME headers with "MIME-Version:")`}
}

// CheckUserData checks rendered user-data. The error is a *ContentError.
func CheckUserData(text string) error {
	if len(text) > maxUserData {
		return &ContentError{nameUserData, 0, fmt.Sprintf("has %d bytes, more than the limit of %d", len(text), maxUserData)}
	}
	switch headerOf(text) {
	case headerNone:
		return errHeader()
	case headerConfig:
		return checkConfigText(text)
	case headerMIME:
		if m, ok := parseMessage(text); ok {
			return m.check()
		}
		return checkKeys(text)
	case headerScript:
		if !strings.HasPrefix(text, "#!") {
			return &ContentError{nameUserData, 1, `there is space before "#!", so that the kernel would not run the script; remove it`}
		}
		return nil
	default:
		return checkKeys(text)
	}
}

// checkConfigText checks a cloud-config.
func checkConfigText(text string) error {
	root, err := parseYAML(nameUserData, text)
	if err != nil {
		return err
	}
	config, err := rootMapping(nameUserData, root)
	if err != nil {
		return err
	}
	return checkConfig(config)
}

const (
	reservedPhoneHome = "phone_home is reserved: it reports to the lab's server that the machine is ready and which SSH host keys it has; " +
		"remove it (a runcmd can report elsewhere)"
	reservedVendorData = "vendor_data must not be disabled: it contains the lab's account and phone_home; remove it"
)

// checkConfig refuses cloud-config that disables the lab's phone_home or account.
func checkConfig(config map[string]entry) error {
	if e, ok := config["phone_home"]; ok {
		return &ContentError{nameUserData, e.key.Line, reservedPhoneHome}
	}
	if vendor, ok := config["vendor_data"]; ok {
		enabled, given := entries(vendor.value)["enabled"]
		if vendor.value.Kind != yaml.MappingNode || given && !isTrue(enabled.value) {
			return &ContentError{nameUserData, vendor.key.Line, reservedVendorData}
		}
	}
	if modules, ok := config["cloud_final_modules"]; ok && !hasPhoneHome(modules.value) {
		return &ContentError{nameUserData, modules.key.Line, "cloud_final_modules lacks phone-home, which reports that the machine is ready; add it"}
	}
	if users, ok := config["users"]; ok && users.value.Kind == yaml.ScalarNode {
		return &ContentError{nameUserData, users.key.Line,
			"users is neither a list nor a mapping, so that the lab's account cannot be added to it; write a list, or remove it"}
	}
	return nil
}

// hasPhoneHome reports whether a list of modules, each a name or a list that begins with
// its name, has the one that phones home.
func hasPhoneHome(modules *yaml.Node) bool {
	for _, m := range modules.Content {
		if m = resolved(m); m.Kind == yaml.SequenceNode && len(m.Content) > 0 {
			m = resolved(m.Content[0])
		}
		if m.Value == "phone-home" || m.Value == "phone_home" {
			return true
		}
	}
	return false
}

var phoneHomeLine = regexp.MustCompile(`(?m)^[ \t-]*"?phone_home"?[ \t]*:`)

// checkKeys refuses a phone_home key in text that is not plain YAML, such as an archive or
// a Jinja template.
func checkKeys(text string) error {
	if place := phoneHomeLine.FindStringIndex(text); place != nil && headerOf(text) != headerScript {
		return &ContentError{nameUserData, 1 + strings.Count(text[:place[0]], "\n"), reservedPhoneHome}
	}
	return nil
}
