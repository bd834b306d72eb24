// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"time"
)

// iPXE is Debian 13's, as network boot program of a UEFI machine.

const (
	ipxeVersion = "1.21.1+git20250501.dad20602+dfsg-1"
	ipxeBanner  = "\x1b[1m\x1b[37m\x1b[40miPXE " + ipxeVersion + "\x1b[0m\x1b[37m\x1b[40m -- Open Source Network Boot Firmware -- " +
		"\x1b[0m\x1b[36m\x1b[40mhttps://ipxe.org\x1b[0m\x1b[37m\x1b[40m"
	ipxeFeatures = "Features: VLAN DNS HTTP HTTPS iSCSI NFS SRP TFTP AoE EFI Menu"
	ipxeAutoexec = "autoexec.ipxe"
	// ipxeBlock is the block size that iPXE requests by TFTP.
	ipxeBlock = "1432"
	// ipxeStall is how long a server may send nothing.
	ipxeStall = 30 * time.Second
)

// ipxeWaits are iPXE's waits for DHCP answers (config/dhcp.h).
var ipxeWaits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second}

// ipxeParameters is iPXE's parameter request list.
var ipxeParameters = []byte{
	1, 3, 6, 7, 12, 15, 17, 26, 42, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203,
}

// ipxeError is an error with iPXE's number for it.
type ipxeError struct {
	code uint32
	text string
}

func (e *ipxeError) Error() string { return fmt.Sprintf("%s (https://ipxe.org/%08x)", e.text, e.code) }

// iPXE's errors, with the numbers of this build.
var (
	errIPXEReset       = &ipxeError{0x0f0a6095, "Connection reset"}
	errIPXETimeout     = &ipxeError{0x4c0a6092, "Connection timed out"}
	errIPXENotFound    = &ipxeError{0x2d0c618e, "Not found"}
	errIPXETFTPNone    = &ipxeError{0x2d12618e, "Not found"}
	errIPXETFTPTimeout = &ipxeError{0x4c126035, "Connection timed out"}
	errIPXEServer      = &ipxeError{0x1d0c6139, "Input/output error"}
	errIPXEExec        = &ipxeError{0x2e008081, "Exec format error"}
	errIPXECommand     = &ipxeError{0x2e022001, "Exec format error"}
	errIPXEUsage       = &ipxeError{0x1c056002, "Invalid argument"}
	errIPXENoName      = &ipxeError{0x3e11618e, "Error 0x3e11618e"}
	errIPXEScheme      = &ipxeError{0x3c092003, "Operation not supported"}
	errIPXENoDHCP      = &ipxeError{0x040ee119, "No configuration methods succeeded"}
	errIPXENoDevice    = &ipxeError{0x2c048001, "No such device"}
	errIPXEMemory      = &ipxeError{0x34002001, "Not enough space"}
	errIPXENoLabel     = &ipxeError{0x2d03e13b, "No such file or directory"}
	errIPXEFalse       = &ipxeError{0x22086001, "False"}
)

// ipxe is one run of iPXE.
type ipxe struct {
	g     *Guest
	nic   *nic // that the firmware booted from
	index int  // of nic
	// lease is the firmware's until iPXE has obtained its own; nil while the card is
	// not configured.
	lease   *lease
	network *network
	http    httpClient
	// settings are what scripts set.
	settings map[string]string
	// base is the URI of the script that runs.
	base     string
	images   []*ipxeImage
	selected *ipxeImage
	errno    uint32
	// commands counts those since the last one that waited.
	commands int
}

// ipxeImage is a downloaded file. Only scripts are kept.
type ipxeImage struct {
	name, uri string
	size      int64
	script    []byte
	cmdline   string
}

// runIPXE runs the network boot program. It returns why the boot ends, or
// errNextDevice if iPXE exits.
func (g *Guest) runIPXE(ctx context.Context, n *nic, l *lease, server netip.Addr) error {
	x := &ipxe{g: g, nic: n, lease: l, settings: map[string]string{}}
	for i := range g.nics {
		if g.nics[i] == n {
			x.index = i
		}
	}
	defer x.unconfigure()
	g.serial.line("iPXE initialising devices...")
	if err := x.configure(); err != nil {
		return err
	}
	uri := "tftp://" + server.String() + "/" + path.Join(path.Dir(l.file), ipxeAutoexec)
	script, err := x.download(ctx, ipxeAutoexec, uri, 0)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.serial.line("%s... %s", ipxeAutoexec, outcome(err))
	g.serial.line("\r\n")
	g.serial.line("%s", ipxeBanner)
	g.serial.line("%s", ipxeFeatures)
	if err == nil && script.script != nil {
		err = x.run(ctx, script, 0)
	} else {
		err = x.autoboot(ctx, 0)
	}
	return x.finish(ctx, err)
}

// finish turns the end of the last script into the end of the boot. The program that
// iPXE boots runs after iPXE's network is closed.
func (x *ipxe) finish(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var start bootKernel
	var reset resetError
	switch {
	case errors.As(err, &start):
		x.unconfigure()
		return x.g.runKernel(ctx, start.cmdline)
	case errors.Is(err, errBootDisk):
		x.unconfigure()
		return x.g.bootDisk(ctx, diskOption(len(x.g.nics)+1))
	case errors.Is(err, errShell):
		x.g.serial.print("iPXE> ")
		return halt(ctx)
	case errors.As(err, &reset), errors.Is(err, errPowerOff):
		return err
	case err == nil:
		// A program that succeeds ends in the firmware's menu (UEFI 2.10, 3.1.2).
		x.unconfigure()
		return x.g.menu(ctx)
	}
	return errNextDevice
}

// bootKernel ends iPXE by starting a kernel.
type bootKernel struct{ cmdline string }

func (bootKernel) Error() string { return "iPXE starts a kernel" }

// Ends of iPXE.
var (
	errBootDisk = errors.New("iPXE boots from the disk")
	errShell    = errors.New("iPXE waits for input")
)

// configure opens the network with the lease.
func (x *ipxe) configure() error {
	w, err := openNetwork(link{nic: x.nic, address: x.lease.prefix, gateway: x.lease.address(optRouter)})
	if err != nil {
		return err
	}
	x.network = w
	x.http = httpClient{dial: w.dial, keep: true}
	return nil
}

// unconfigure closes the network. It is idempotent.
func (x *ipxe) unconfigure() {
	if x.network != nil {
		x.http.close()
		x.network.close()
		x.network = nil
	}
}

// dhcp obtains a lease as iPXE.
func (x *ipxe) dhcp(ctx context.Context) error {
	x.unconfigure()
	x.lease = nil
	what := fmt.Sprintf("Configuring (net%d %s)......", x.index, x.nic.mac)
	l, err := x.g.acquire(ctx, x.nic, x.dhcpProgram())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		x.g.serial.line("%s %s", what, errIPXENoDHCP)
		return errIPXENoDHCP
	}
	x.g.serial.line("%s ok", what)
	x.lease = l
	return x.configure()
}

// dhcpProgram is how iPXE asks for a lease. It requests broadcasts because its card has
// the address of the firmware's lease.
func (x *ipxe) dhcpProgram() dhcpProgram {
	return dhcpProgram{options: x.options, broadcast: true, seconds: ipxeSeconds, waits: ipxeWaits}
}

// ipxeSeconds is the field secs, in which iPXE counts its messages and notes whether
// it has an offer.
func ipxeSeconds(n int, kind byte) uint16 {
	seconds := uint16(n+1) << 2
	if kind == dhcpRequest {
		seconds |= 2
	}
	return seconds
}

// options returns iPXE's options after the message type.
func (x *ipxe) options(_ byte, server, address netip.Addr) []option {
	processor := x.g.processor()
	o := []option{
		option16(optMaxSize, defaultMTU-28),
		option16(optArchitecture, processor),
		{optUNDI, []byte{1, 3, 10}},
		{optVendorClass, fmt.Appendf(nil, "PXEClient:Arch:%05d:UNDI:003010", processor)},
		{optUserClass, []byte("iPXE")},
		{optParameters, ipxeParameters},
		{optIPXE, ipxeEncapsulated},
		{optClientID, append([]byte{ethernetType}, x.nic.mac...)},
		{optUUID, machineID(x.g.config.UUID)},
	}
	if server.IsValid() {
		o = append(o, optionAddress(optServer, server), optionAddress(optRequested, address))
	}
	return o
}

// ipxeEncapsulated is option 175: the bus of the network card (a virtio card on PCI),
// the version and the features of this build.
var ipxeEncapsulated = []byte{
	177, 5, 1, 0x1a, 0xf4, 0x10, 0x00, 235, 3, 1, 0, 0,
	38, 1, 1, 23, 1, 1, 39, 1, 1, 36, 1, 1, 19, 1, 1, 20, 1, 1, 17, 1, 1, 41, 1, 1, 27, 1, 1, 21, 1, 1, 18, 1, 1,
}

// autoboot is what iPXE does without a script: DHCP, and the boot file of its answer.
func (x *ipxe) autoboot(ctx context.Context, depth int) error {
	if err := x.dhcp(ctx); err != nil {
		return err
	}
	l := x.lease
	x.g.serial.line("net%d: %s/%d", x.index, l.your, l.prefix.Bits())
	x.g.serial.line("Next server: %s", l.next)
	x.g.serial.line("Filename: %s", l.file)
	if l.file == "" {
		x.g.serial.line("Nothing to boot: %s", errIPXENoLabel)
		return errIPXENoLabel
	}
	uri := l.file
	if !hasScheme(uri) {
		uri = "tftp://" + l.next.String() + "/" + uri
	}
	return x.chain(ctx, "", uri, chainOptions{depth: depth})
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}
