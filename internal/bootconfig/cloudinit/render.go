// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"bytes"
	"fmt"
	"reflect"

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

// askTime makes the client for the time that the image has, if any, ask the server, whose
// address is the argument of the format. It is the last resort of systemd-timesyncd and one
// more source of chrony, so that what the image or user-data configures stays in force.
// cloud-init's own module installs a client where there is none, which fails without a
// mirror.
const askTime = `
if [ -x /lib/systemd/systemd-timesyncd ]; then
  mkdir -p /etc/systemd/timesyncd.conf.d
  printf '[Time]\nFallbackNTP=%%s\n' %[1]s >/etc/systemd/timesyncd.conf.d/50-pxelab.conf
  systemctl try-restart systemd-timesyncd.service || :
fi
if [ -d /etc/chrony/sources.d ]; then
  echo 'server %[1]s iburst' >/etc/chrony/sources.d/pxelab.sources
  systemctl try-reload-or-restart chrony.service || :
fi
`

// VendorData returns the lab's own configuration of an installed machine: its
// account, reporting by cloud-init's stages, the lab's time server, and phone home at the
// end of the first run. Keys in user-data take precedence.
func VendorData(v Values) string {
	return multipartOf(part{kind: textConfig, text: vendorConfig(v)}, part{kind: "text/x-shellscript", text: removeReporting + fmt.Sprintf(askTime, v.ServerAddress)})
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
