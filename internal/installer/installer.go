// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// Settings are the installer's arguments on the kernel command line.
type Settings struct {
	// Base is the machine's URL on the server, with a trailing slash.
	Base *url.URL
	// MAC identifies the interface to which Address, Gateway and MTU apply.
	MAC     net.HardwareAddr
	Address netip.Prefix
	// Gateway is the zero Addr if there is none.
	Gateway netip.Addr
	// MTU is 0 to keep the driver's default.
	MTU int
}

// ParseCommandLine reads installerapi.ArgURL and installerapi.ArgNet from a kernel
// command line. The last of repeated arguments wins. A dotted netmask is
// accepted instead of the prefix length.
func ParseCommandLine(cmdline string) (Settings, error) {
	var s Settings
	values := map[string]string{}
	for _, word := range splitCommandLine(cmdline) {
		if key, value, ok := strings.Cut(word, "="); ok {
			values[key] = value
		}
	}
	base, ok := values[installerapi.ArgURL]
	if !ok || base == "" {
		return s, fmt.Errorf("the kernel command line has no %s=; boot this machine with the server's iPXE script", installerapi.ArgURL)
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return s, fmt.Errorf("%s=%s on the kernel command line is not an http URL", installerapi.ArgURL, base)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	s.Base = u
	value, ok := values[installerapi.ArgNet]
	if !ok {
		return s, fmt.Errorf("the kernel command line has no %s=", installerapi.ArgNet)
	}
	if err := s.parseNet(value); err != nil {
		return s, fmt.Errorf("%s=%s on the kernel command line: %w", installerapi.ArgNet, value, err)
	}
	return s, nil
}

func (s *Settings) parseNet(value string) error {
	f := strings.Split(value, ",")
	if len(f) < 2 || len(f) > 4 {
		return fmt.Errorf("want MAC,ADDRESS/PREFIXLEN[,GATEWAY[,MTU]]")
	}
	var err error
	if s.MAC, err = net.ParseMAC(f[0]); err != nil {
		return err
	}
	if s.Address, err = parsePrefix(f[1]); err != nil {
		return err
	}
	if len(f) > 2 && f[2] != "" && f[2] != "0.0.0.0" {
		if s.Gateway, err = netip.ParseAddr(f[2]); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
	}
	if len(f) > 3 && f[3] != "" {
		if s.MTU, err = strconv.Atoi(f[3]); err != nil || s.MTU != 0 && s.MTU < 576 || s.MTU > 65535 {
			return fmt.Errorf("%q is not an MTU", f[3])
		}
	}
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	addr, mask, ok := strings.Cut(s, "/")
	if ok && strings.Contains(mask, ".") {
		m, err := netip.ParseAddr(mask)
		if err != nil || !m.Is4() {
			return netip.Prefix{}, fmt.Errorf("%q is not a netmask", mask)
		}
		ones, bits := net.IPMask(m.AsSlice()).Size()
		if bits == 0 {
			return netip.Prefix{}, fmt.Errorf("%q is not a netmask", mask)
		}
		s = addr + "/" + strconv.Itoa(ones)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if !p.Addr().IsValid() || p.Addr().IsUnspecified() {
		return p, fmt.Errorf("%s is not a valid address for a machine", p.Addr())
	}
	return p, nil
}

// splitCommandLine splits at white space outside double quotes, as the kernel
// does.
func splitCommandLine(s string) []string {
	var words []string
	var word strings.Builder
	quoted := false
	flush := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			flush()
		default:
			word.WriteRune(c)
		}
	}
	flush()
	return words
}
