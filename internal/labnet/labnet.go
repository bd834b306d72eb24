// SPDX-License-Identifier: Apache-2.0

// Package labnet plugs machines into lab networks, whatever carries them: the
// user-space switch, a Linux bridge, or macOS' vmnet. It makes the ends on the
// host and says what QEMU is to be told; it knows nothing of addresses or of
// what the machines are for.
package labnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/pxelab/pxelab/internal/l2switch"
	"github.com/pxelab/pxelab/internal/qemu"
)

// Mode is what carries a network.
type Mode string

// The modes.
const (
	Userspace   Mode = "Userspace"
	Bridge      Mode = "Bridge"
	VMNetHost   Mode = "VMNetHost"
	VMNetShared Mode = "VMNetShared"
)

// Attachment is one machine's place in a network.
type Attachment struct {
	// Network identifies the network: a UUID.
	Network string
	Mode    Mode
	// MTU of the network.
	MTU int
	// Bridge names the Linux bridge of mode Bridge.
	Bridge string
	// Machine identifies the machine: a UUID.
	Machine string
	// Sockets is the directory, with a short path, of the machine's sockets. The
	// user-space switch shares it with the machine.
	Sockets string
	// MAC is the only source address the machine may use. Where the user-space
	// switch carries the network this is enforced.
	MAC string
	// Server marks the network's own server: nobody else may answer DHCP or
	// advertise routes, which the user-space switch enforces as well.
	Server bool
}

// Networks holds the networks of one host. It is safe for concurrent use.
type Networks struct {
	log *slog.Logger

	mu       sync.Mutex
	switches map[string]*l2switch.Switch
	impaired map[string]Impairment
}

// New makes an empty set. Close it.
func New(log *slog.Logger) *Networks {
	return &Networks{log: log, switches: map[string]*l2switch.Switch{}, impaired: map[string]Impairment{}}
}

// JumboFrames reports whether the user-space network carries frames above 1500
// bytes on this host.
func JumboFrames() bool { return jumboFrames }

// Attach makes sure that the machine's place exists and says what its NIC is
// plugged into. It is idempotent and does not block on the machine.
func (n *Networks) Attach(a Attachment) (qemu.Backend, error) {
	switch a.Mode {
	case Userspace:
		return n.attachSwitch(a)
	case Bridge:
		name := tapName(a.Machine)
		if err := ensureTap(name, a.Bridge, a.MTU); err != nil {
			return qemu.Backend{}, fmt.Errorf("attaching to bridge %s: %w", a.Bridge, err)
		}
		return qemu.Backend{Tap: &qemu.Tap{Interface: name, Offload: true}}, nil
	case VMNetHost:
		return qemu.Backend{VMNetHost: &qemu.VMNetHost{NetUUID: netUUID(a.Network)}}, nil
	case VMNetShared:
		return qemu.Backend{VMNetShared: &qemu.VMNetShared{}}, nil
	default:
		return qemu.Backend{}, fmt.Errorf("network mode %q is not known", a.Mode)
	}
}

// Detach takes the machine's place away. A place that is not there is fine.
func (n *Networks) Detach(a Attachment) error {
	switch a.Mode {
	case Userspace:
		n.mu.Lock()
		defer n.mu.Unlock()
		if s := n.switches[a.Network]; s != nil {
			s.RemovePort(a.Machine)
		}
		return nil
	case Bridge:
		return removeTap(tapName(a.Machine))
	default:
		return nil
	}
}

// Remove ends a network.
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

// Close ends all networks. Machines live on without frames until a new
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

func (n *Networks) attachSwitch(a Attachment) (qemu.Backend, error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return qemu.Backend{}, fmt.Errorf("attaching machine %s: %w", a.Machine, err)
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
	ours, theirs := filepath.Join(a.Sockets, "sw"), filepath.Join(a.Sockets, "net")
	err = s.AddPort(l2switch.PortConfig{
		Name: a.Machine, Local: ours, Remote: theirs,
		Policy: l2switch.Policy{MAC: mac, DenyServer: !a.Server},
	})
	if err != nil {
		return qemu.Backend{}, fmt.Errorf("adding a switch port for machine %s: %w", a.Machine, err)
	}
	return qemu.Backend{Dgram: &qemu.Dgram{Local: theirs, Remote: ours}}, nil
}

// tapName fits the kernel's 15 bytes: it has 48 bits of the UUID.
func tapName(machine string) string {
	digits := strings.ReplaceAll(machine, "-", "")
	return "pxl" + digits[:min(12, len(digits))]
}

// netUUID keeps macOS' own DHCP server off the network.
func netUUID(network string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("pxelab/"+network)).String()
}
