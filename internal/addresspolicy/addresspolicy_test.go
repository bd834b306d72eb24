// SPDX-License-Identifier: Apache-2.0

package addresspolicy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	prefix := netip.MustParsePrefix
	closed := Policy{}
	home := Policy{AllowPrivate: true, Own: []netip.Addr{netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("2001:db8::5")}}
	opened := Policy{Allow: []netip.Prefix{prefix("10.1.0.0/16"), prefix("127.0.0.2/32"), prefix("fd01::/16"), prefix("169.254.7.0/24")}}
	mapped := Policy{Allow: []netip.Prefix{prefix("::ffff:10.1.0.0/112")}}
	all := Policy{Allow: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}, Own: home.Own}
	self := Policy{Allow: []netip.Prefix{prefix("192.168.1.5/32")}, Own: home.Own}
	for name, c := range map[string]struct {
		policy Policy
		addr   string
		want   string // part of the error; empty if the address is permitted
	}{
		"public":                     {closed, "93.184.216.34", ""},
		"public IPv6":                {closed, "2606:2800:220:1::1", ""},
		"loopback":                   {closed, "127.0.0.1", "loopback"},
		"loopback beyond the first":  {closed, "127.255.0.9", "loopback"},
		"loopback IPv6":              {closed, "::1", "loopback"},
		"mapped loopback":            {closed, "::ffff:127.0.0.1", "contains 127.0.0.1, which is a loopback"},
		"compatible loopback":        {closed, "::127.0.0.1", "loopback"},
		"translated loopback":        {closed, "::ffff:0:127.0.0.1", "loopback"},
		"NAT64 of loopback":          {closed, "64:ff9b::7f00:1", "contains 127.0.0.1"},
		"NAT64 of metadata":          {home, "64:ff9b::a9fe:a9fe", "contains 169.254.169.254, which is a link-local"},
		"NAT64 of private":           {closed, "64:ff9b::a00:1", "contains 10.0.0.1, which is a private"},
		"NAT64 of public":            {closed, "64:ff9b::5db8:d822", ""},
		"local NAT64":                {closed, "64:ff9b:1::5db8:d822", "private"},
		"local NAT64 of loopback":    {home, "64:ff9b:1::7f00:1", "loopback"},
		"6to4 of loopback":           {closed, "2002:7f00:1::", "loopback"},
		"6to4 of private":            {closed, "2002:a00:1::1", "private"},
		"6to4 of public":             {closed, "2002:5db8:d822::1", ""},
		"Teredo of private":          {closed, "2001:0:5db8:d822::f5ff:fffe", "contains 10.0.0.1"},
		"ISATAP of loopback":         {closed, "2606:2800::5efe:7f00:1", "loopback"},
		"ISATAP with the u bit":      {closed, "2606:2800::200:5efe:7f00:1", "loopback"},
		"link-local":                 {home, "169.254.169.254", "link-local"},
		"link-local IPv6":            {home, "fe80::1%eth0", "link-local"},
		"AWS":                        {home, "fd00:ec2::254", "metadata"},
		"Alibaba":                    {home, "100.100.100.200", "metadata"},
		"Azure":                      {closed, "168.63.129.16", "metadata"},
		"multicast":                  {closed, "224.0.0.251", "multicast"},
		"multicast IPv6":             {closed, "ff02::1", "multicast"},
		"broadcast":                  {all, "255.255.255.255", "multicast"},
		"unspecified":                {closed, "0.0.0.0", "unspecified"},
		"unspecified IPv6":           {closed, "::", "unspecified"},
		"mapped unspecified":         {closed, "::ffff:0.0.0.0", "unspecified"},
		"this network":               {all, "0.1.2.3", "unspecified"},
		"unspecified, all allowed":   {all, "0.0.0.0", "unspecified"},
		"10/8":                       {closed, "10.0.0.1", "private"},
		"172.16/12":                  {closed, "172.31.255.255", "private"},
		"next to 172.16/12":          {closed, "172.32.0.0", ""},
		"192.168/16":                 {closed, "192.168.0.1", "private"},
		"carrier":                    {closed, "100.64.0.1", "private"},
		"benchmark":                  {closed, "198.19.0.1", "private"},
		"reserved":                   {closed, "240.0.0.1", "private"},
		"unique local":               {closed, "fd12::1", "private"},
		"site-local":                 {closed, "fec0::1", "private"},
		"private at home":            {home, "10.0.0.1", ""},
		"unique local at home":       {home, "fd12::1", ""},
		"loopback at home":           {home, "127.0.0.1", "loopback"},
		"own private":                {home, "192.168.1.5", "own"},
		"own mapped":                 {home, "::ffff:192.168.1.5", "own"},
		"own public":                 {home, "2001:db8::5", "own"},
		"own, all allowed":           {all, "192.168.1.5", "own"},
		"own, allowed alone":         {self, "192.168.1.5", ""},
		"allowed private":            {opened, "10.1.2.3", ""},
		"allowed private, mapped":    {opened, "::ffff:10.1.2.3", ""},
		"allowed private, NAT64":     {opened, "64:ff9b::a01:203", ""},
		"next to the allowed":        {opened, "10.2.0.1", "private"},
		"allowed loopback":           {opened, "127.0.0.2", ""},
		"loopback beside it":         {opened, "127.0.0.1", "loopback"},
		"allowed unique local":       {opened, "fd01::9", ""},
		"allowed link-local":         {opened, "169.254.7.9", ""},
		"allowed as a mapped prefix": {mapped, "10.1.2.3", ""},
		"private beside the mapped":  {mapped, "10.2.2.3", "private"},
		"loopback, all allowed":      {all, "::1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.policy.Check(netip.MustParseAddr(c.addr))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s: got error %v, want none", c.addr, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), netip.MustParseAddr(c.addr).String())):
				t.Errorf("%s: got error %v, want one with the address and %q", c.addr, err, c.want)
			}
		})
	}
	if err := closed.Check(netip.Addr{}); err == nil {
		t.Error("invalid address: got no error, want one")
	}
}

// FuzzCheck asserts that a form of an address never permits what the address itself does
// not.
func FuzzCheck(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "0.0.0.0", "224.0.0.1", "100.64.1.1"} {
		b := netip.MustParseAddr(a).As4()
		f.Add(b[:], false)
		f.Add(b[:], true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, allowPrivate bool) {
		if len(raw) != 4 {
			return
		}
		v4 := netip.AddrFrom4([4]byte(raw))
		p := Policy{AllowPrivate: allowPrivate}
		if p.Check(v4) == nil {
			return
		}
		for prefix, at := range map[string]int{"::ffff:0:0": 12, "64:ff9b::": 12, "2002::": 2, "::ffff:0:0:0": 12, "::": 12} {
			form := netip.MustParseAddr(prefix).As16()
			copy(form[at:], raw)
			if a := netip.AddrFrom16(form); p.Check(a) == nil {
				t.Errorf("%s is permitted, and %s, which it contains, is not", a, v4)
			}
		}
	})
}
