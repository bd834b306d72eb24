// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"strings"
	"time"
)

// The firmware is Debian's OVMF: NetworkPkg of EDK2 with a virtio network card, whose
// driver has no UNDI interface.

// errNextDevice makes the firmware continue with the next device of the boot order.
var errNextDevice = errors.New("the firmware continues with the next device")

// firmwareWaits are EDK2's waits for DHCP answers (PXE 2.1, section 2.2.1).
var firmwareWaits = []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}

const (
	// tftpBlock and tftpWindow are what OVMF requests.
	tftpBlock, tftpWindow = "1468", "4"
	// tftpWait is after how long EDK2 sends a packet again, tftpTries how often it
	// sends one.
	tftpWait  = 4 * time.Second
	tftpTries = 6
	// discoverSize and requestSize are the Maximum DHCP Message Sizes (option 57) that
	// OVMF's PXE driver and its DHCP driver send.
	discoverSize = 1472
	requestSize  = 0xff00
)

// firmwareParameters is EDK2's parameter request list.
var firmwareParameters = []byte{
	1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97,
	128, 129, 130, 131, 132, 133, 134, 135,
}

// processor returns the client system architecture (RFC 4578).
func (g *Guest) processor() uint16 {
	if g.config.Architecture == aarch64 {
		return 11
	}
	return 7
}

// machineID returns option 97: the SMBIOS UUID, whose first three fields are little
// endian.
func machineID(uuid string) []byte {
	id := make([]byte, 17)
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return id
	}
	binary.LittleEndian.PutUint32(id[1:], binary.BigEndian.Uint32(raw))
	binary.LittleEndian.PutUint16(id[5:], binary.BigEndian.Uint16(raw[4:]))
	binary.LittleEndian.PutUint16(id[7:], binary.BigEndian.Uint16(raw[6:]))
	copy(id[9:], raw[8:])
	return id
}

// firmwareDHCP is how OVMF asks for a lease.
func (g *Guest) firmwareDHCP() dhcpProgram {
	return dhcpProgram{options: g.firmwareOptions, broadcast: true, waits: firmwareWaits, deaf: g.faults[NoRequest]}
}

// firmwareOptions returns the options of OVMF after the message type.
func (g *Guest) firmwareOptions(_ byte, server, address netip.Addr) []option {
	var o []option
	size := uint16(discoverSize)
	if server.IsValid() {
		o = append(o, optionAddress(optServer, server), optionAddress(optRequested, address))
		size = requestSize
	}
	return append(o,
		option16(optMaxSize, size),
		option{optParameters, firmwareParameters},
		option{optUUID, machineID(g.config.UUID)},
		option{optUNDI, []byte{1, 3, 0}},
		option16(optArchitecture, g.processor()),
		option{optVendorClass, fmt.Appendf(nil, "PXEClient:Arch:%05d:UNDI:003000", g.processor())},
	)
}

// bootOption is an entry of the firmware's boot manager.
type bootOption struct {
	number            int
	description, path string
}

func (b bootOption) String() string {
	return fmt.Sprintf(`Boot%04X "%s" from %s`, b.number, b.description, b.path)
}

func (g *Guest) networkOption(n *nic, number int) bootOption {
	mac := strings.ToUpper(hex.EncodeToString(n.mac))
	return bootOption{number, "UEFI PXEv4 (MAC:" + mac + ")", fmt.Sprintf(
		"PciRoot(0x0)/Pci(0x%X,0x0)/MAC(%s,0x1)/IPv4(0.0.0.0,0x0,DHCP,0.0.0.0,0.0.0.0,0.0.0.0)", number+1, mac)}
}

func diskOption(number int) bootOption {
	return bootOption{number, "UEFI Misc Device", fmt.Sprintf("PciRoot(0x0)/Pci(0x%X,0x0)", number+1)}
}

func (g *Guest) nic(id string) *nic {
	for _, n := range g.nics {
		if n.id == id {
			return n
		}
	}
	return nil
}

// boot runs the machine from the start of its firmware until the boot ends, and
// returns why.
func (g *Guest) boot(ctx context.Context) error {
	if err := pause(ctx, g.config.Options.FirmwareDelay); err != nil {
		return err
	}
	g.serial.print("\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01H\r\n")
	for i, id := range g.config.BootOrder() {
		var err error
		if n := g.nic(id); n != nil {
			err = g.bootNetwork(ctx, n, g.networkOption(n, i+1))
		} else if id == g.config.DiskID && g.config.Disk != nil {
			err = g.bootDisk(ctx, diskOption(i+1))
		} else {
			continue
		}
		if !errors.Is(err, errNextDevice) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	g.serial.line("BdsDxe: No bootable option or device was found.")
	return g.menu(ctx)
}

// menu is the firmware's menu, which waits for input until the machine is reset.
func (g *Guest) menu(ctx context.Context) error {
	g.serial.line("BdsDxe: Press any key to enter the Boot Manager Menu.")
	return halt(ctx)
}

// failedToLoad reports that a boot option is not usable.
func (g *Guest) failedToLoad(b bootOption, status string) error {
	g.serial.line("BdsDxe: failed to load %s: %s", b, status)
	return errNextDevice
}

// bootNetwork boots from the network by PXE.
func (g *Guest) bootNetwork(ctx context.Context, n *nic, b bootOption) error {
	g.serial.line(">>Start PXE over IPv4.")
	failed := func(reason string) error {
		g.serial.line("  %s", reason)
		return g.failedToLoad(b, "Not Found")
	}
	if g.faults[NoDiscover] {
		if err := pause(ctx, firmwareWaits[0]/g.hurry); err != nil {
			return err
		}
		return failed("PXE-E18: Server response timeout.")
	}
	l, err := g.acquire(ctx, n, g.firmwareDHCP())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return failed("PXE-E18: Server response timeout.")
	}
	g.serial.line("  Station IP address is %s", l.your)
	g.serial.line("")
	server := l.next
	if !server.IsValid() || server.IsUnspecified() {
		server = l.server
	}
	if l.file == "" {
		return failed("PXE-E16: No valid offer received.")
	}
	g.serial.line("  Server IP address is %s", server)
	g.serial.line("  NBP filename is %s", l.file)
	reason, err := g.fetchProgram(ctx, n, l, server)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return failed(reason)
	}
	g.serial.line("  NBP file downloaded successfully.")
	g.serial.line("BdsDxe: loading %s", b)
	g.serial.line("BdsDxe: starting %s", b)
	err = g.runIPXE(ctx, n, l, server)
	if errors.Is(err, errNextDevice) {
		g.serial.line("BdsDxe: failed to start %s: 0000007F", b)
	}
	return err
}

// fetchProgram fetches the network boot program and discards it. The firmware asks
// for its size first. On failure it returns the text of the firmware's error.
func (g *Guest) fetchProgram(ctx context.Context, n *nic, l *lease, server netip.Addr) (reason string, err error) {
	w, err := openNetwork(link{nic: n, address: l.prefix, gateway: l.address(optRouter)})
	if err != nil {
		return "PXE-E99: Unexpected network error.", err
	}
	defer w.close()
	blocks := [][2]string{{"blksize", tftpBlock}, {"windowsize", tftpWindow}}
	r := tftpRequest{server: server, name: l.file, wait: tftpWait / g.hurry, tries: tftpTries}
	digest := sha256.New()

	probe := r
	probe.probe = true
	probe.options = append([][2]string{{"tsize", "0"}}, blocks...)
	size, err := w.tftp(ctx, probe, digest)
	if err != nil && !errors.Is(err, errTFTPAborted) {
		return tftpReason(err), err
	}
	if size >= 0 {
		g.serial.line("  NBP filesize is %d Bytes", size)
	}
	g.serial.line(" Downloading NBP file...")
	g.serial.line("")
	r.options = blocks
	if g.faults[TFTPAbort] {
		r.abortAfter = 3
	}
	received := &counter{Hash: digest}
	if _, err := w.tftp(ctx, r, received); err != nil {
		return tftpReason(err), err
	}
	if size >= 0 && received.n != size {
		return "PXE-E99: Unexpected network error.", fmt.Errorf("the program has %d bytes, announced were %d", received.n, size)
	}
	return "", nil
}

// counter hashes and counts what is written to it.
type counter struct {
	hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// tftpReason returns EDK2's text for an error.
func tftpReason(err error) string {
	var refused *tftpServerError
	switch {
	case errors.Is(err, errTFTPSilent):
		return "PXE-E18: Server response timeout."
	case errors.As(err, &refused):
		return "PXE-E23: Client received TFTP error from server."
	}
	return "PXE-E99: Unexpected network error."
}

// bootDisk starts the installed system.
func (g *Guest) bootDisk(ctx context.Context, b bootOption) error {
	r, err := loadRecord(g.config.Disk)
	if err != nil {
		return g.failedToLoad(b, "Device Error")
	}
	if !r.bootable() {
		return g.failedToLoad(b, "Not Found")
	}
	g.serial.line("BdsDxe: loading %s", b)
	g.serial.line("BdsDxe: starting %s", b)
	return g.runSystem(ctx, r)
}
