// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// interfaceConfig is the configuration of one network card by the installed system.
type interfaceConfig struct {
	nic     *nic
	dhcp    bool
	address netip.Prefix
	gateway netip.Addr
	mtu     int
}

// networkV1 and networkV2 are the parts of cloud-init's network configuration that
// concern IPv4 on Ethernet cards.
type networkV1 struct {
	Config []struct {
		Type    string `yaml:"type"`
		Name    string `yaml:"name"`
		MAC     string `yaml:"mac_address"`
		MTU     int    `yaml:"mtu"`
		Subnets []struct {
			Type    string `yaml:"type"`
			Address string `yaml:"address"`
			Netmask string `yaml:"netmask"`
			Gateway string `yaml:"gateway"`
		} `yaml:"subnets"`
	} `yaml:"config"`
}

type networkV2 struct {
	Ethernets map[string]struct {
		Match struct {
			MAC string `yaml:"macaddress"`
		} `yaml:"match"`
		DHCP4     bool   `yaml:"dhcp4"`
		Addresses []any  `yaml:"addresses"`
		Gateway4  string `yaml:"gateway4"`
		Routes    []struct {
			To  string `yaml:"to"`
			Via string `yaml:"via"`
		} `yaml:"routes"`
		MTU int `yaml:"mtu"`
	} `yaml:"ethernets"`
}

// parseNetwork returns the configuration of the cards that text configures. Without a
// text the first card is configured by DHCP, as cloud-init does.
func parseNetwork(text string, nics []*nic) ([]interfaceConfig, error) {
	if strings.TrimSpace(text) == "" {
		if len(nics) == 0 {
			return nil, nil
		}
		return []interfaceConfig{{nic: nics[0], dhcp: true}}, nil
	}
	var head struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		return nil, fmt.Errorf("parsing the network configuration: %w", err)
	}
	p := networkParser{nics: nics}
	var err error
	switch head.Version {
	case 1:
		err = p.version1(text)
	case 2:
		err = p.version2(text)
	default:
		err = fmt.Errorf("version %d of network configuration is unknown", head.Version)
	}
	return p.found, err
}

type networkParser struct {
	nics  []*nic
	found []interfaceConfig
}

// card returns the card with a MAC address, or the first that is not configured yet
// if mac is empty: names of interfaces are not simulated.
func (p *networkParser) card(mac string) *nic {
	hw, err := net.ParseMAC(mac)
	for _, n := range p.nics {
		used := slices.ContainsFunc(p.found, func(c interfaceConfig) bool { return c.nic == n })
		if !used && (mac == "" || err == nil && bytes.Equal(hw, n.mac)) {
			return n
		}
	}
	return nil
}

func (p *networkParser) version2(text string) error {
	var config networkV2
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		return fmt.Errorf("parsing the network configuration: %w", err)
	}
	var names []string
	for name := range config.Ethernets {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e := config.Ethernets[name]
		c := interfaceConfig{nic: p.card(e.Match.MAC), dhcp: e.DHCP4, mtu: validMTU(e.MTU)}
		if c.nic == nil {
			continue
		}
		for _, a := range e.Addresses {
			if prefix, err := netip.ParsePrefix(fmt.Sprint(a)); err == nil && prefix.Addr().Is4() && !c.address.IsValid() {
				c.address = prefix
			}
		}
		c.gateway = gateway(e.Gateway4)
		for _, r := range e.Routes {
			if r.To == "default" || r.To == "0.0.0.0/0" {
				c.gateway = gateway(r.Via)
			}
		}
		p.add(c)
	}
	return nil
}

func (p *networkParser) version1(text string) error {
	var config networkV1
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		return fmt.Errorf("parsing the network configuration: %w", err)
	}
	for _, e := range config.Config {
		if e.Type != "physical" {
			continue
		}
		c := interfaceConfig{nic: p.card(e.MAC), mtu: validMTU(e.MTU)}
		if c.nic == nil {
			continue
		}
		for _, s := range e.Subnets {
			switch s.Type {
			case "dhcp", "dhcp4":
				c.dhcp = true
			case "static":
				if prefix, err := prefixOf(s.Address, s.Netmask); err == nil && !c.address.IsValid() {
					c.address = prefix
					c.gateway = gateway(s.Gateway)
				}
			}
		}
		p.add(c)
	}
	return nil
}

func (p *networkParser) add(c interfaceConfig) {
	if c.address.IsValid() {
		c.dhcp = false // the lease would be a second address
	}
	if c.dhcp || c.address.IsValid() {
		p.found = append(p.found, c)
	}
}

// prefixOf parses an address with a prefix length, or with a separate netmask.
func prefixOf(address, netmask string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(address); err == nil {
		if !prefix.Addr().Is4() {
			return netip.Prefix{}, errors.New("not an IPv4 address")
		}
		return prefix, nil
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	mask, err := netip.ParseAddr(netmask)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !a.Is4() || !mask.Is4() {
		return netip.Prefix{}, errors.New("not an IPv4 address")
	}
	ones, bits := net.IPMask(mask.AsSlice()).Size()
	if bits == 0 {
		return netip.Prefix{}, fmt.Errorf("%q is not a netmask", netmask)
	}
	return netip.PrefixFrom(a, ones), nil
}

// gateway returns an IPv4 address, or the zero Addr.
func gateway(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}
	}
	return a
}

// validMTU returns 0, for the card's MTU, in place of one that no card has.
func validMTU(mtu int) int {
	if mtu < 576 || mtu > maxFrame {
		return 0
	}
	return mtu
}
