// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"reflect"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// isAdjustable reports whether running services can change from one network to another.
// They can if only the prefix length, the pool or the lease time differ, as after the
// network was widened: the server keeps its address, so that downloads, transfers and
// SSH connections continue.
func isAdjustable(from, to *netbootapi.Network) bool {
	if to == nil || from.Address.Addr() != to.Address.Addr() {
		return false
	}
	same := *from
	same.Address = to.Address
	same.RangeStart = to.RangeStart
	same.RangeEnd = to.RangeEnd
	same.LeaseSeconds = to.LeaseSeconds
	return reflect.DeepEqual(&same, to)
}

// adjust changes the running services to another network, for which isAdjustable is true.
// Clients learn the new mask when they next renew their leases.
func (l *lab) adjust(next *netbootapi.Network) error {
	if _, err := l.server.options.SetUpLink(next); err != nil {
		return err
	}
	if err := l.server.applyNAT(next); err != nil {
		return err
	}
	if err := l.dhcp.SetConfig(dhcpConfig(next)); err != nil {
		return err
	}
	before := l.network.Swap(next)
	l.log.Info("adjusted the lab's network", "from", before.Address, "to", next.Address)
	return nil
}
