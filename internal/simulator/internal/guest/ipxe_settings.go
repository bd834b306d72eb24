// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// setting returns the value of a setting, "" if it has none. name may have a scope and
// a type, as in net0/mac:hexhyp.
func (x *ipxe) setting(name string) string {
	scope := ""
	if at := strings.LastIndex(name, "/"); at >= 0 {
		scope, name = name[:at], name[at+1:]
	}
	name, kind, _ := strings.Cut(name, ":")
	if value, ok := x.settings[name]; ok && scope == "" {
		return typed(value, kind)
	}
	return typed(x.builtin(scope, name), kind)
}

// typed formats a value.
func typed(value, kind string) string {
	switch kind {
	case "hexhyp":
		if mac, err := net.ParseMAC(value); err == nil {
			return strings.ReplaceAll(mac.String(), ":", "-")
		}
	case "hexraw":
		if mac, err := net.ParseMAC(value); err == nil {
			return strings.ReplaceAll(mac.String(), ":", "")
		}
	case "uristring":
		return url.QueryEscape(value)
	}
	return value
}

// card returns the network card that a scope names: net0 or netX, with or without the
// name of a settings block.
func (x *ipxe) card(scope string) *nic {
	scope, _, _ = strings.Cut(scope, ".")
	if scope == "" || scope == "netX" {
		return x.nic
	}
	i, err := strconv.Atoi(strings.TrimPrefix(scope, "net"))
	if err != nil || !strings.HasPrefix(scope, "net") || i < 0 || i >= len(x.g.nics) {
		return nil
	}
	return x.g.nics[i]
}

// builtin returns a setting of the machine or of its lease.
func (x *ipxe) builtin(scope, name string) string {
	n := x.card(scope)
	if n == nil {
		return ""
	}
	switch name {
	case "mac":
		return n.mac.String()
	case "uuid":
		return x.g.config.UUID
	case "platform":
		return "efi"
	case "buildarch":
		if x.g.config.Architecture == aarch64 {
			return "arm64"
		}
		return x8664
	case "version":
		return ipxeVersion
	case "errno":
		return fmt.Sprintf("%#x", x.errno)
	}
	if x.lease == nil || n != x.nic {
		return ""
	}
	l := x.lease
	address := func(code byte) string {
		if a := l.address(code); a.IsValid() {
			return a.String()
		}
		return ""
	}
	switch name {
	case "ip":
		return l.your.String()
	case "netmask":
		return address(optMask)
	case "gateway":
		return address(optRouter)
	case "dns":
		return address(optDNS)
	case "next-server":
		return l.next.String()
	case "dhcp-server":
		return address(optServer)
	case "filename":
		return l.file
	case "hostname":
		return text(l.options[optHostName])
	case "domain":
		return text(l.options[optDomain])
	}
	return ""
}
