// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

func TestIsAdjustable(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*netbootapi.Network)
		want bool
	}{
		"nothing": {func(*netbootapi.Network) {}, true},
		"prefix and pool": {func(n *netbootapi.Network) {
			n.Address = netip.MustParsePrefix("127.0.0.1/7")
			n.RangeStart = netip.MustParseAddr("127.2.0.1")
			n.RangeEnd = netip.MustParseAddr("127.2.0.9")
		}, true},
		"lease time": {func(n *netbootapi.Network) { n.LeaseSeconds = 60 }, true},
		"address":    {func(n *netbootapi.Network) { n.Address = netip.MustParsePrefix("127.0.0.2/8") }, false},
		"MAC":        {func(n *netbootapi.Network) { n.MAC = "52:54:00:00:00:03" }, false},
		"NAT":        {func(n *netbootapi.Network) { n.NAT = true }, false},
		"DNS":        {func(n *netbootapi.Network) { n.DNS = nil }, false},
		"domain":     {func(n *netbootapi.Network) { n.Domain = "other" }, false},
		"MTU":        {func(n *netbootapi.Network) { n.MTU = 1500 }, false},
	} {
		from, to := labConfig().Network, labConfig().Network
		c.edit(&to)
		if got := isAdjustable(&from, &to); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
	from := labConfig().Network
	if isAdjustable(&from, nil) {
		t.Error("no network: got true, want false")
	}
}

// TestWideningKeepsConnections widens the network while a machine has a connection: it
// continues, and DHCP, NAT and the machines that are accepted follow the new network.
func TestWideningKeepsConnections(t *testing.T) {
	h := newHarness(t)
	c := labConfig()
	wide := c.Network
	c.Network.Address = netip.MustParsePrefix("127.0.0.1/16")
	c.Network.RangeStart = netip.MustParseAddr("127.0.9.1")
	c.Network.RangeEnd = netip.MustParseAddr("127.0.9.9")
	c.Network.NAT, wide.NAT = true, true
	h.up(c)
	h.mu.Lock()
	socket := h.dhcp
	h.mu.Unlock()

	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(machineAddress)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", h.service(serviceHTTP))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /program/ipxe.efi HTTP/1.1\r\nHost: lab\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	ask()

	far := anotherMachine(1)
	far.Address = netip.MustParseAddr("127.5.0.11")
	if err := h.client.PutMachine(t.Context(), far.UID, entryOf(&far)); err == nil {
		t.Error("a machine outside of the network: got no error, want one")
	}
	c.Network = wide
	c.Machines = append(c.Machines, far)
	h.push(c)
	mac, err := net.ParseMAC("52:54:00:00:09:09")
	if err != nil {
		t.Fatal(err)
	}
	discover, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(patience); ; {
		offer := h.exchange(discover)
		if ones, _ := offer.SubnetMask().Size(); ones == labAddress.Bits() {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("got %s, want a mask of %d bits", offer.Summary(), labAddress.Bits())
		}
	}
	if network, _ := h.nat.state(); network != labAddress.Masked() {
		t.Errorf("got NAT for %s, want %s", network, labAddress.Masked())
	}
	ask()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dhcp != socket {
		t.Error("got another DHCP socket, want the one from before the change")
	}
}
