// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// knownFields are the names that templates can use at the top of their data.
var knownFields = func() map[string]bool {
	known := map[string]bool{}
	t := reflect.TypeFor[Values]()
	for i := range t.NumField() {
		known[t.Field(i).Name] = true
	}
	for i := range t.NumMethod() {
		known[t.Method(i).Name] = true
	}
	return known
}()

// MetaData is NoCloud's meta-data.
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

// webhook is cloud-init's reporting handler. It posts one event after the
// other from a thread of its own. When the server is away, a stage waits for it
// at its end until three events in a row have failed, hence at most three times
// Timeout; nothing is tried again, since what matters is seen by phone_home too.
type webhook struct {
	Type     string `yaml:"type"`
	Endpoint string `yaml:"endpoint"`
	Timeout  int    `yaml:"timeout"`
	Retries  int    `yaml:"retries"`
}

// forgetReports has each boot, at its end, take the reporting handler out of what
// cloud-init remembers. The next one would report before it has a network, count
// each failure as an error of its own, and so end as degraded. It gets the
// handler again with the vendor-data, once there is a network. The script
// installs another because cloud-init runs no script of vendor-data per boot.
const forgetReports = `#!/bin/sh
set -e
mkdir -p /var/lib/cloud/scripts/per-boot
cat >/var/lib/cloud/scripts/per-boot/pxelab-reports <<'END'
#!/bin/sh
exec sed -i '/^reporting:/,/^[^[:space:]]/{/^reporting:/d;/^[[:space:]]/d}' /var/lib/cloud/instance/vendor-cloud-config.txt
END
chmod 700 /var/lib/cloud/scripts/per-boot/pxelab-reports
`

// VendorData is what the lab itself asks of an installed machine: its account,
// the reports of cloud-init's stages and the one at the end of its first run.
// User-data wins over it key by key.
func VendorData(v Values) string {
	return multipartOf(part{textConfig, vendorConfig(v)}, part{"text/x-shellscript", forgetReports})
}

func vendorConfig(v Values) string {
	doc := struct {
		// Without this, sudo asks DNS for the machine's own name and waits.
		ManageEtcHosts string `yaml:"manage_etc_hosts"`
		PasswordLogin  bool   `yaml:"ssh_pwauth"`
		Users          []any  `yaml:"users,omitempty"`
		// phone_home reads these three, whatever it is to post, and counts one
		// that is missing as an error of the whole boot.
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

// RenderNetworkConfig renders the template (static addressing of the lab NIC
// when empty) and checks that the result is network configuration, version 1
// or 2, without an outer "network:" key.
func RenderNetworkConfig(text string, v Values) (string, error) {
	if text == "" {
		return defaultNetworkConfig(v), nil
	}
	out, err := RenderTemplate(nameNetworkConfig, text, v)
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
		return &ContentError{nameNetworkConfig, 0, `leave out the outer "network:" key`}
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

// defaultNetworkConfig is static: the first boot need not wait for DHCP, and
// the machine keeps its address while the provisioning server is down.
func defaultNetworkConfig(v Values) string {
	off := false
	nic := ethernet{
		AcceptRA:  &off,
		Addresses: []string{fmt.Sprintf("%s/%d", v.Address, v.PrefixLength)},
		MTU:       v.MTU,
	}
	nic.Match.MAC = strings.ToLower(v.MAC)
	if v.Gateway != "" {
		// Not "default": older renderers know only the numeric form.
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

// withAccount adds the lab's account to user-data that has a users list of its
// own and does not name the account itself.
func withAccount(text string, v Values) string {
	if v.SSHUser == "" {
		return text
	}
	switch headerOf(text) {
	case headerConfig:
		config, err := parseMapping(nameUserData, text)
		list, there := config["users"].([]any)
		if err != nil || !there || names(list)[v.SSHUser] {
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

// accountPart is a cloud-config that adds the account to what came before it.
func accountPart(v Values) string {
	return marshal("#cloud-config\n", struct {
		MergeHow string `yaml:"merge_how"`
		Users    []user `yaml:"users"`
	}{"list(append)+dict(no_replace,recurse_list)+str()", []user{account(v)}})
}

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

// part is one document of several, with its MIME type.
type part struct{ kind, text string }

const textConfig = "text/cloud-config"

// multipartOf joins parts into one MIME message.
func multipartOf(parts ...part) string {
	var body, all bytes.Buffer
	for _, p := range parts {
		all.WriteString(p.text + "\n")
	}
	w := multipart.NewWriter(&body)
	// A fixed boundary keeps the rendering a pure function; one that occurs in
	// a part is made longer.
	boundary := "pxelab-part"
	for bytes.Contains(all.Bytes(), []byte(boundary)) {
		boundary += "-"
	}
	boundary += "x"
	if err := w.SetBoundary(boundary); err != nil {
		panic("boundary: " + err.Error())
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
