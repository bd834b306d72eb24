// SPDX-License-Identifier: Apache-2.0

package dhcp_test

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

// oneHost declares a single machine.
type oneHost struct {
	mac  string
	host dhcp.Host
}

func (o oneHost) Lookup(mac net.HardwareAddr) (dhcp.Host, bool) { return o.host, mac.String() == o.mac }
func (o oneHost) Reserved(a netip.Addr) bool                    { return a == o.host.Address }

// Offer a declared machine its reserved address.
func ExampleResponder_Reply() {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	policy := oneHost{mac: mac.String(), host: dhcp.Host{Address: netip.MustParseAddr("10.0.0.10"), Hostname: "target-1"}}
	responder, err := dhcp.NewResponder(dhcp.Config{
		ServerAddr: netip.MustParseAddr("10.0.0.1"),
		Prefix:     netip.MustParsePrefix("10.0.0.0/24"),
		LeaseTime:  time.Hour,
	}, policy)
	if err != nil {
		fmt.Println(err)
		return
	}
	request, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName))
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, event := responder.Reply(request, time.Now())
	fmt.Println(event.Kind, reply.MessageType())
	fmt.Println(reply.YourIPAddr, reply.HostName())
	// Output:
	// Offer OFFER
	// 10.0.0.10 target-1
}
