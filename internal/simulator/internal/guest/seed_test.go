// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const vendorData = `Content-Type: multipart/mixed; boundary="part"
MIME-Version: 1.0

--part
Content-Type: text/cloud-config; charset="utf-8"

#cloud-config
users:
  - default
  - name: lab
    ssh_authorized_keys: [ssh-ed25519 AAAA lab]
phone_home:
  url: http://10.9.0.1/phone-home
  post: [pub_key_ed25519, instance_id]
  tries: 20
reporting:
  pxelab: {type: webhook, endpoint: "http://10.9.0.1/cloud-init"}

--part
Content-Type: text/x-shellscript; charset="utf-8"

#!/bin/sh
reporting: no

--part--
`

func TestSeed(t *testing.T) {
	const meta = "instance-id: i-1\nlocal-hostname: one\n"
	lab := account{"lab", []string{"ssh-ed25519 AAAA lab"}}
	home := phoneHome{URL: "http://10.9.0.1/phone-home", Post: []string{"pub_key_ed25519", "instance_id"}, Tries: 20}
	const endpoint = "http://10.9.0.1/cloud-init"
	for name, c := range map[string]struct {
		user string
		want instance
	}{
		"defaults": {"#cloud-config\n{}\n", instance{
			ID: "i-1", Hostname: "one", Endpoint: endpoint, PhoneHome: home,
			Accounts: []account{{Name: defaultUser}, lab}, Keys: []string{"phone_home", "reporting", "users"},
		}},
		"user-data takes precedence": {"#cloud-config\nhostname: two\nusers: [{name: me}]\nruncmd: [[a]]\n", instance{
			ID: "i-1", Hostname: "two", Endpoint: endpoint, PhoneHome: home,
			Accounts: []account{{Name: "me"}}, Keys: []string{"hostname", "phone_home", "reporting", "runcmd", "users"},
		}},
		"base64": {
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n" +
				"Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogdHdvCg==\n--b--\n",
			instance{
				ID: "i-1", Hostname: "two", Endpoint: endpoint, PhoneHome: home,
				Accounts: []account{{Name: defaultUser}, lab}, Keys: []string{"hostname", "phone_home", "reporting", "users"},
			},
		},
		"script and invalid part": {"#!/bin/sh\nusers: []\n", instance{
			ID: "i-1", Hostname: "one", Endpoint: endpoint, PhoneHome: home,
			Accounts: []account{{Name: defaultUser}, lab}, Keys: []string{"phone_home", "reporting", "users"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := seed{meta, c.user, vendorData}.parse()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("instance (-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"", "a: [", "local-hostname: one\n"} {
		if i, err := (seed{metaData: bad}).parse(); err == nil {
			t.Errorf("meta-data %q: got %+v, want an error", bad, i)
		}
	}
}

func TestNetworkConfig(t *testing.T) {
	nics := New(Config{NICs: []NIC{{ID: "a", MAC: testMAC}, {ID: "b", MAC: serverMAC}}}).nics
	first, second := nics[0], nics[1]
	prefix, router := netip.MustParsePrefix("10.9.0.11/24"), netip.MustParseAddr("10.9.0.1")
	for name, c := range map[string]struct {
		text string
		want []interfaceConfig
	}{
		"none": {"", []interfaceConfig{{nic: first, dhcp: true}}},
		"version 2": {
			"version: 2\nethernets:\n  lab:\n    match: {macaddress: " + strings.ToUpper(serverMAC.String()) + "}\n" +
				"    addresses: [10.9.0.11/24, \"fd00::1/64\"]\n    routes: [{to: 0.0.0.0/0, via: 10.9.0.1}]\n    mtu: 9000\n",
			[]interfaceConfig{{nic: second, address: prefix, gateway: router, mtu: 9000}},
		},
		"version 2 by name": {
			`{"version": 2, "ethernets": {"x": {"dhcp4": true}, "y": {"addresses": ["10.9.0.11/24"], "gateway4": "10.9.0.1"}}}`,
			[]interfaceConfig{{nic: first, dhcp: true}, {nic: second, address: prefix, gateway: router}},
		},
		"version 1": {
			"version: 1\nconfig:\n  - type: physical\n    name: eth0\n    mac_address: \"" + testMAC.String() + "\"\n    subnets:\n" +
				"      - {type: static, address: 10.9.0.11, netmask: 255.255.255.0, gateway: 10.9.0.1}\n  - {type: nameserver}\n",
			[]interfaceConfig{{nic: first, address: prefix, gateway: router}},
		},
		"another card": {"version: 2\nethernets:\n  lab: {match: {macaddress: \"02:00:00:00:00:01\"}, dhcp4: true}\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseNetwork(c.text, nics)
			if err != nil {
				t.Fatal(err)
			}
			equal := cmp.Comparer(func(a, b interfaceConfig) bool { return a == b })
			if diff := cmp.Diff(c.want, got, equal); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"version: 3\n", "- a\n", "version: [\n"} {
		if got, err := parseNetwork(bad, nics); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func FuzzSeed(f *testing.F) {
	f.Add("instance-id: a\n", "#cloud-config\nusers: [default]\n", vendorData)
	f.Fuzz(func(_ *testing.T, meta, user, vendor string) {
		_, _ = seed{meta, user, vendor}.parse()
	})
}

func FuzzNetworkConfig(f *testing.F) {
	f.Add("version: 2\nethernets: {a: {dhcp4: true, addresses: [10.0.0.1/8]}}\n")
	f.Add("version: 1\nconfig: [{type: physical, subnets: [{type: static, address: 10.0.0.1, netmask: 255.0.0.0}]}]\n")
	nics := New(Config{NICs: []NIC{{ID: "a", MAC: testMAC}}}).nics
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseNetwork(text, nics)
		for _, c := range got {
			if err == nil && c.nic == nil {
				t.Errorf("got %+v, want a card", c)
			}
		}
	})
}
