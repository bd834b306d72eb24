// SPDX-License-Identifier: Apache-2.0

// Package labnet attaches machines to lab networks: the user-space switch, a Linux
// bridge, or vmnet on macOS. It creates the host side of the attachment and returns
// the network backend for QEMU. It assigns no IP addresses.
package labnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/hostfs"
	"github.com/pxelab/pxelab/internal/labnet/internal/l2switch"
	"github.com/pxelab/pxelab/internal/machine"
)

// Mode is the implementation of a network.
type Mode string

// The modes.
const (
	Userspace   Mode = "Userspace"
	Bridge      Mode = "Bridge"
	VMNetHost   Mode = "VMNetHost"
	VMNetShared Mode = "VMNetShared"
)

// Attachment describes the attachment of one machine to a network.
type Attachment struct {
	// Network identifies the network: a UUID.
	Network string
	// Mode selects the implementation of the network.
	Mode Mode
	// MTU of the network.
	MTU int
	// Bridge is the name of the Linux bridge in mode Bridge.
	Bridge string
	// Machine identifies the machine: a UUID.
	Machine string
	// Sockets is the directory of the machine's sockets, shared with the
	// user-space switch. Its path must be short (see unix(7)).
	Sockets string
	// MAC is the only source address that the machine may use. The user-space
	// switch enforces it.
	MAC string
	// Addresses are the IPv4 addresses that are reserved for the machine. The
	// user-space switch sends ARP requests for them to this machine only, and drops
	// what the machine sends from other addresses. If they change, the machine must be
	// attached again.
	Addresses []netip.Addr
	// Server marks the network's server: the user-space switch drops DHCP server
	// messages and router advertisements of all other machines, and sends DHCP
	// requests and router solicitations to the server only. It checks no more of the
	// server's frames than their MAC address.
	Server bool
	// Unchecked are the checks of the user-space switch that are switched off.
	Unchecked Unchecked
}

// Networks holds the networks of one host. It is safe for concurrent use.
type Networks struct {
	log     *slog.Logger
	bridges []string

	mu       sync.Mutex
	switches map[string]*l2switch.Switch
	impaired map[string]Impairment
}

// ErrBridgeNotAllowed means that a bridge is not among those that machines may be attached
// to.
var ErrBridgeNotAllowed = errors.New("bridge is not allowed")

// New returns an empty set of networks. Machines are attached to the named bridges only.
// The caller must call Close.
func New(log *slog.Logger, bridges ...string) *Networks {
	return &Networks{log: log, bridges: bridges, switches: map[string]*l2switch.Switch{}, impaired: map[string]Impairment{}}
}

// JumboFrames reports whether user-space networks on this host support an MTU above
// 1500 bytes.
func JumboFrames() bool { return jumboFrames }

// Attach ensures that the host side of the attachment exists and returns the
// backend for the machine's NIC. It is idempotent, does not wait for the machine, and
// costs the same whatever the number of machines.
func (n *Networks) Attach(a Attachment) (machine.Backend, error) {
	switch a.Mode {
	case Userspace:
		return n.attachSwitch(a)
	case Bridge:
		if !slices.Contains(n.bridges, a.Bridge) {
			return machine.Backend{}, fmt.Errorf("attaching to bridge %s: %w; start the manager with --allow-bridge=%s", a.Bridge, ErrBridgeNotAllowed, a.Bridge)
		}
		name := tapName(a.Machine)
		if err := ensureTap(name, a.Bridge, a.MTU); err != nil {
			return machine.Backend{}, fmt.Errorf("attaching to bridge %s: %w", a.Bridge, err)
		}
		return machine.Backend{Tap: &machine.Tap{Interface: name, Offload: true}}, nil
	case VMNetHost:
		return machine.Backend{VMNetHost: &machine.VMNetHost{NetUUID: netUUID(a.Network)}}, nil
	case VMNetShared:
		return machine.Backend{VMNetShared: &machine.VMNetShared{}}, nil
	default:
		return machine.Backend{}, fmt.Errorf("unknown network mode %q: use Userspace, Bridge, VMNetHost or VMNetShared", a.Mode)
	}
}

// Detach removes the host side of the attachment, also that of an earlier process that
// was killed. It is idempotent.
func (n *Networks) Detach(a Attachment) error {
	switch a.Mode {
	case Userspace:
		n.mu.Lock()
		defer n.mu.Unlock()
		if s := n.switches[a.Network]; s != nil {
			s.RemovePort(a.Machine)
		}
		// A machine that was not attached since the death of the process that ran the
		// switch has its socket still.
		if err := hostfs.RemoveStaleSocket("unixgram", switchSocket(a)); err != nil {
			return fmt.Errorf("detaching machine %s: %w", a.Machine, err)
		}
		return nil
	case Bridge:
		return removeTap(tapName(a.Machine))
	default:
		return nil
	}
}

// Remove closes a network. It is idempotent.
func (n *Networks) Remove(network string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.impaired, network)
	s := n.switches[network]
	if s == nil {
		return nil
	}
	delete(n.switches, network)
	return s.Close()
}

// Close closes all networks. Machines keep running without a network until a new
// Networks attaches them again.
func (n *Networks) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for id, s := range n.switches {
		delete(n.switches, id)
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (n *Networks) attachSwitch(a Attachment) (machine.Backend, error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return machine.Backend{}, fmt.Errorf("attaching machine %s: parsing its MAC: %w", a.Machine, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.switches[a.Network]
	if s == nil {
		s = l2switch.New(l2switch.Options{
			MTU: a.MTU, Impairment: n.impaired[a.Network], Log: n.log.With("network", a.Network),
		})
		n.switches[a.Network] = s
	}
	local, remote := switchSocket(a), filepath.Join(a.Sockets, "net")
	err = s.AddPort(l2switch.PortConfig{
		Name: a.Machine, Local: local, Remote: remote,
		Policy: policyOf(a, mac),
	})
	if err != nil {
		return machine.Backend{}, fmt.Errorf("attaching machine %s: %w", a.Machine, err)
	}
	return machine.Backend{Dgram: &machine.Dgram{Local: remote, Remote: local}}, nil
}

// switchSocket is the socket of the switch to which a machine sends.
func switchSocket(a Attachment) string { return filepath.Join(a.Sockets, "sw") }

// tapName derives an interface name from 48 bits of the UUID, because the kernel
// limits names to 15 bytes.
func tapName(machine string) string {
	digits := strings.ReplaceAll(machine, "-", "")
	return "pxl" + digits[:min(12, len(digits))]
}

// netUUID derives a vmnet network identifier. macOS runs no DHCP server on a
// network with an identifier.
func netUUID(network string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("pxelab/"+network)).String()
}
