// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// networkdWaits are systemd-networkd's waits for DHCP answers.
var networkdWaits = []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}

// networkdParameters is systemd-networkd's parameter request list.
var networkdParameters = []byte{1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121}

const (
	// networkdSize is the least size of systemd-networkd's messages.
	networkdSize = 300
	// renewRetry is after how long a renewal is tried again.
	renewRetry = 60 * time.Second
)

// system is the installed system.
type system struct {
	g       *Guest
	record  *record
	network *network
	// links and leases are those of the configured cards; a static card has no lease.
	links  []link
	leases []*lease
	ssh    *sshServer
}

// runSystem runs the installed system from the start of its kernel until it ends, and
// returns why.
func (g *Guest) runSystem(ctx context.Context, r *record) error {
	g.setACPI(true)
	if err := g.startKernel(ctx, "BOOT_IMAGE=/boot/vmlinuz root=LABEL=root ro console=ttyS0,115200"); err != nil {
		return err
	}
	if g.faults[PowersOff] {
		return errPowerLost
	}
	s := &system{g: g, record: r}
	defer s.close()
	if r.MachineID == "" {
		var id [16]byte
		_, _ = crand.Read(id[:]) // never fails
		r.MachineID = hex.EncodeToString(id[:])
		s.save()
	}
	g.serial.line("Welcome to a simulated system!")
	if err := s.configure(ctx); err != nil {
		return err
	}
	if err := s.cloudInit(ctx); err != nil {
		return err
	}
	name := r.Hostname
	if r.Instance != nil {
		name = r.Instance.Hostname
	}
	g.serial.print("\r\n" + name + " login: ")
	g.config.OnUp()
	return s.wait(ctx)
}

// close ends the system as the loss of power does. It is idempotent.
func (s *system) close() {
	if s.ssh != nil {
		s.ssh.close()
	}
	if s.network != nil {
		s.network.close()
		s.network = nil
	}
	if s.ssh != nil {
		s.ssh.wait()
		s.ssh = nil
	}
}

// save writes the record. A disk that fails loses what was written; the next boot
// repeats it.
func (s *system) save() {
	if err := s.record.store(s.g.config.Disk); err != nil {
		s.g.kernelLine("I/O error, dev vda, sector 0 op 0x1:(WRITE)")
	}
}

// configure sets up the network. It waits for leases as long as it takes.
func (s *system) configure(ctx context.Context) error {
	configs, err := parseNetwork(s.record.NetworkConfig, s.g.nics)
	if err != nil {
		s.g.serial.line("[FAILED] Failed to start systemd-networkd.service - Network Configuration: %v", err)
		return nil
	}
	for _, c := range configs {
		l := link{nic: c.nic, address: c.address, gateway: c.gateway, mtu: c.mtu}
		var got *lease
		for c.dhcp && got == nil {
			got, err = s.g.acquire(ctx, c.nic, s.networkd(c.nic))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				l.address, l.gateway = got.prefix, got.address(optRouter)
				if mtu := validMTU(int(got.number(optMTU))); mtu != 0 && l.mtu == 0 {
					l.mtu = mtu
				}
			}
		}
		s.links = append(s.links, l)
		s.leases = append(s.leases, got)
	}
	if len(s.links) == 0 {
		return nil
	}
	s.g.serial.line("[  OK  ] Finished systemd-networkd-wait-online.service - Wait for Network to be Configured.")
	s.network, err = openNetwork(s.links...)
	return err
}

// networkd is how systemd-networkd asks for a lease.
func (s *system) networkd(n *nic) dhcpProgram {
	return dhcpProgram{
		size: networkdSize, waits: networkdWaits,
		options: func(_ byte, server, address netip.Addr) []option {
			o := []option{
				{optClientID, s.clientID(n)},
				{optParameters, networkdParameters},
				option16(optMaxSize, defaultMTU-28),
			}
			if server.IsValid() {
				o = append(o, optionAddress(optServer, server), optionAddress(optRequested, address))
			}
			return append(o, option{optHostName, []byte(s.record.Hostname)})
		},
	}
}

// clientID returns systemd-networkd's client identifier: an IAID and a DUID-EN (RFC
// 4361) that are made of the card and the machine ID.
func (s *system) clientID(n *nic) []byte {
	iaid := sha256.Sum256(n.mac)
	duid := sha256.Sum256([]byte(s.record.MachineID))
	id := append([]byte{0xff}, iaid[:4]...)
	id = binary.BigEndian.AppendUint16(id, 2)
	id = binary.BigEndian.AppendUint32(id, 43793) // systemd's enterprise number
	return append(id, duid[:8]...)
}

// wait renews leases until the system ends.
func (s *system) wait(ctx context.Context) error {
	for {
		next := s.nextRenewal()
		if next.IsZero() {
			return halt(ctx)
		}
		if err := pause(ctx, time.Until(next)); err != nil {
			return err
		}
		for i, l := range s.leases {
			if l == nil || l.renew == 0 || time.Now().Before(l.at.Add(l.renew)) {
				continue
			}
			renewed, err := s.g.renew(ctx, s.network, s.links[i].nic.mac, l, s.networkd(s.links[i].nic))
			if err == nil {
				s.leases[i] = renewed
				continue
			}
			retry := *l
			retry.renew = time.Since(l.at) + renewRetry
			s.leases[i] = &retry
		}
	}
}

// nextRenewal returns when the next lease is to be renewed, the zero Time for never.
func (s *system) nextRenewal() time.Time {
	var next time.Time
	for _, l := range s.leases {
		if l == nil || l.renew == 0 {
			continue
		}
		if at := l.at.Add(l.renew); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// errNoNetwork reports that no card is configured.
var errNoNetwork = errors.New("the system has no network")

// startSSH starts the SSH server, which needs host keys.
func (s *system) startSSH() {
	if s.network == nil || s.ssh != nil {
		return
	}
	if s.g.faults[NoSSH] || len(s.record.HostKeys) == 0 {
		s.g.serial.line("[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.")
		return
	}
	server, err := newSSHServer(s.network, s.record)
	if err != nil {
		s.g.serial.line("[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server: %v", err)
		return
	}
	s.ssh = server
	s.g.serial.line("[  OK  ] Started ssh.service - OpenBSD Secure Shell server.")
}

// cloudInitLine prints a line of cloud-init.
func (s *system) cloudInitLine(format string, args ...any) {
	s.g.kernelLine("cloud-init[301]: %s", fmt.Sprintf(format, args...))
}
