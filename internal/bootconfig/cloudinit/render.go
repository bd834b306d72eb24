// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// knownFields are the fields and methods of Values that templates can use.
var knownFields = func() map[string]bool {
	known := map[string]bool{}
	values := reflect.TypeFor[Values]()
	for i := range values.NumField() {
		known[values.Field(i).Name] = true
	}
	for i := range values.NumMethod() {
		known[values.Method(i).Name] = true
	}
	return known
}()

// MetaData returns NoCloud's meta-data.
func MetaData(v Values) string {
	return marshal("", struct {
		InstanceID string `yaml:"instance-id"`
		Hostname   string `yaml:"local-hostname"`
	}{v.InstanceID, v.Hostname})
}

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

type phoneHome struct {
	URL   string   `yaml:"url"`
	Post  []string `yaml:"post"`
	Tries int      `yaml:"tries"`
}

// webhook is cloud-init's reporting handler. It posts events one by one from a
// separate thread. If the server is unreachable, each stage waits at its end
// until three events in a row have failed, at most three times Timeout. It does
// not retry, because phone_home reports the result too.
type webhook struct {
	Type     string `yaml:"type"`
	Endpoint string `yaml:"endpoint"`
	Timeout  int    `yaml:"timeout"`
	Retries  int    `yaml:"retries"`
}

// removeReporting makes each boot, at its end, remove the reporting handler from
// cloud-init's cached vendor-data. Otherwise the next boot would report before it
// has a network, count each failure as an error and end as degraded. It gets the
// handler again with the vendor-data once there is a network. The script installs
// a second one because cloud-init does not run vendor-data scripts at every boot.
const removeReporting = `#!/bin/sh
set -e
mkdir -p /var/lib/cloud/scripts/per-boot
cat >/var/lib/cloud/scripts/per-boot/pxelab-reports <<'END'
#!/bin/sh
exec sed -i '/^reporting:/,/^[^[:space:]]/{/^reporting:/d;/^[[:space:]]/d}' /var/lib/cloud/instance/vendor-cloud-config.txt
END
chmod 700 /var/lib/cloud/scripts/per-boot/pxelab-reports
`

// VendorData returns the lab's own configuration of an installed machine: its
// account, reporting by cloud-init's stages, and phone home at the end of the
// first run. Keys in user-data take precedence.
func VendorData(v Values) string {
	return multipartOf(part{textConfig, vendorConfig(v)}, part{"text/x-shellscript", removeReporting})
}

func vendorConfig(v Values) string {
	doc := struct {
		// Without this, sudo resolves the machine's own name by DNS and waits.
		ManageEtcHosts string `yaml:"manage_etc_hosts"`
		PasswordLogin  bool   `yaml:"ssh_pwauth"`
		Users          []any  `yaml:"users,omitempty"`
		// phone_home reads all three types regardless of what it posts; a missing
		// one counts as an error of the boot.
		HostKeyTypes []string           `yaml:"ssh_genkeytypes,flow"`
		PhoneHome    phoneHome          `yaml:"phone_home"`
		Reporting    map[string]webhook `yaml:"reporting"`
	}{
		HostKeyTypes:   []string{"rsa", "ecdsa", "ed25519"},
		ManageEtcHosts: "localhost",
		PhoneHome: phoneHome{
			URL:   v.PhoneHomeURL(),
			Post:  []string{"pub_key_rsa", "pub_key_ecdsa", "pub_key_ed25519", "instance_id", "hostname", "fqdn"},
			Tries: 20,
		},
		Reporting: map[string]webhook{"pxelab": {Type: "webhook", Endpoint: v.ReportURL(), Timeout: 1}},
	}
	if v.SSHUser != "" {
		doc.Users = []any{"default", account(v)}
	}
	return marshal("#cloud-config\n", doc)
}

// RenderNetworkConfig renders the template (static addressing of the lab NIC if
// empty) and checks that the result is network configuration, version 1 or 2,
// without an outer "network:" key. The error is a *TemplateError or a
// *ContentError.
func RenderNetworkConfig(ctx context.Context, text string, v Values) (string, error) {
	if text == "" {
		return defaultNetworkConfig(v), nil
	}
	out, err := RenderTemplate(ctx, nameNetworkConfig, text, v)
	if err != nil {
		return "", err
	}
	return out, checkNetworkConfig(out)
}

func checkNetworkConfig(text string) error {
	config, err := parseMapping(nameNetworkConfig, text)
	if err != nil {
		return err
	}
	if _, outer := config["network"]; outer {
		return &ContentError{nameNetworkConfig, 0, `remove the outer "network:" key`}
	}
	if v := config["version"]; v != 1 && v != 2 {
		return &ContentError{nameNetworkConfig, 0, "version must be 1 or 2"}
	}
	return nil
}

type nameservers struct {
	Addresses []string `yaml:"addresses,flow,omitempty"`
	Search    []string `yaml:"search,flow,omitempty"`
}

type route struct {
	To  string `yaml:"to"`
	Via string `yaml:"via"`
}

type ethernet struct {
	Match struct {
		MAC string `yaml:"macaddress"`
	} `yaml:"match"`
	DHCP4       bool         `yaml:"dhcp4"`
	DHCP6       bool         `yaml:"dhcp6"`
	AcceptRA    *bool        `yaml:"accept-ra,omitempty"`
	Addresses   []string     `yaml:"addresses,flow,omitempty"`
	Routes      []route      `yaml:"routes,omitempty"`
	Nameservers *nameservers `yaml:"nameservers,omitempty"`
	MTU         int          `yaml:"mtu,omitempty"`
	Optional    bool         `yaml:"optional,omitempty"`
}

type networkConfig struct {
	Version   int                 `yaml:"version"`
	Ethernets map[string]ethernet `yaml:"ethernets"`
}

// defaultNetworkConfig is static, so that the first boot does not wait for DHCP
// and the machine keeps its address while the provisioning server is down.
func defaultNetworkConfig(v Values) string {
	off := false
	nic := ethernet{
		AcceptRA:  &off,
		Addresses: []string{fmt.Sprintf("%s/%d", v.Address, v.PrefixLength)},
		MTU:       v.MTU,
	}
	nic.Match.MAC = strings.ToLower(v.MAC)
	if v.Gateway != "" {
		// Older renderers do not support "default".
		nic.Routes = []route{{To: "0.0.0.0/0", Via: v.Gateway}}
	}
	if len(v.DNS) > 0 {
		nic.Nameservers = &nameservers{Addresses: v.DNS}
		if v.Domain != "" {
			nic.Nameservers.Search = []string{v.Domain}
		}
	}
	return marshal("", networkConfig{Version: 2, Ethernets: map[string]ethernet{"lab": nic}})
}

// withAccount adds the lab's account to user-data that has a users list without
// it.
func withAccount(text string, v Values) string {
	if v.SSHUser == "" {
		return text
	}
	switch headerOf(text) {
	case headerConfig:
		config, err := parseMapping(nameUserData, text)
		list, ok := config["users"].([]any)
		if err != nil || !ok || names(list)[v.SSHUser] {
			return text
		}
	case headerJinja:
		if !usersLine.MatchString(text) {
			return text
		}
	default:
		return text
	}
	kind := textConfig
	if headerOf(text) == headerJinja {
		kind = "text/jinja2"
	}
	return multipartOf(part{kind, text}, part{textConfig, accountPart(v)})
}

// accountPart returns a cloud-config that appends the account to the users of
// earlier parts.
func accountPart(v Values) string {
	return marshal("#cloud-config\n", struct {
		MergeHow string `yaml:"merge_how"`
		Users    []user `yaml:"users"`
	}{"list(append)+dict(no_replace,recurse_list)+str()", []user{account(v)}})
}

// names returns the user names in a cloud-config users list.
func names(users []any) map[string]bool {
	found := map[string]bool{}
	for _, u := range users {
		switch u := u.(type) {
		case string:
			found[u] = true
		case map[string]any:
			found[fmt.Sprint(u["name"])] = true
		}
	}
	return found
}

// part is one document of a MIME message.
type part struct{ kind, text string }

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
		to, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Type":        {p.kind + `; charset="utf-8"`},
			"Content-Disposition": {fmt.Sprintf(`attachment; filename="pxelab-%03d"`, i+1)},
		})
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

func marshal(head string, doc any) string {
	var out bytes.Buffer
	out.WriteString(head)
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		panic("marshalling own types: " + err.Error())
	}
	return out.String()
}
