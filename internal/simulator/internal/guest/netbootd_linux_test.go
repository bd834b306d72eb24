// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pxelab/pxelab/internal/namespacetest"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd"
)

// openTap creates a network interface with the server's MAC address and returns its
// other end, as a QEMU would hold it.
func openTap(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq("lab0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(netlink.Link) error{
		"lo": netlink.LinkSetUp, "lab0": func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, serverMAC) },
	} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := set(link); err != nil {
			t.Fatal(err)
		}
	}
	return os.NewFile(uintptr(fd), "tap")
}

const (
	machineUID = "uid-1"
	bootToken  = "secret-token-0123456789"
	seedToken  = "secret-seed-01234567890"
)

// realLab is netbootd on a tap, with the manager's part of the protocol.
type realLab struct {
	*lab
	client  *netbootapi.Client
	machine netbootapi.Machine
	config  netbootapi.ServerConfig
	blobs   map[string][]byte
}

func (l *realLab) blob(content []byte) netbootapi.Blob {
	b := netbootapi.Blob{Digest: netbootapi.Digest(content), Size: int64(len(content))}
	l.blobs[b.Digest] = content
	return b
}

// put sends the entry of the machine, and what netbootd lacks.
func (l *realLab) put() {
	l.t.Helper()
	l.whole(func() error {
		return l.client.PutMachine(l.t.Context(), machineUID, netbootapi.NewEntry(&l.machine.Content, l.machine.Control))
	})
}

func (l *realLab) whole(put func() error) {
	l.t.Helper()
	err := put()
	if missing := (*netbootapi.MissingError)(nil); errors.As(err, &missing) {
		for _, b := range missing.Blobs {
			if err := l.client.UploadBlob(l.t.Context(), b, bytes.NewReader(l.blobs[b.Digest]), nil); err != nil {
				l.t.Fatal(err)
			}
		}
		err = put()
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// observe waits until netbootd has observed what ok describes, in the declared attempt:
// a state may be published a little later than it arises.
func (l *realLab) observe(what string, ok func(netbootapi.State, netbootapi.MachineState) bool) (netbootapi.State, netbootapi.MachineState) {
	l.t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		o, err := l.client.Observe(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		if m := o.Machines[machineUID]; m.Attempt == l.machine.Attempt && ok(o.State, m) {
			return o.State, m
		}
		if time.Now().After(limit) {
			l.t.Fatalf("timeout: got %+v\n%+v\nand the output\n%s\nwant %s", o.State, o.Machines[machineUID], l.serial, what)
		}
	}
}

// newRealLab starts netbootd and declares the machine.
func newRealLab(t *testing.T) *realLab {
	t.Helper()
	tap := openTap(t)
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, err := netbootd.New(netbootd.Options{
		StateDir: t.TempDir(), Version: "test", APIAddress: "127.0.0.1:0", Seed: credentials.Server(), HTTPPort: 80, TFTPPort: 69,
	})
	if err != nil {
		t.Fatal(err)
	}
	tls, err := credentials.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	l := &realLab{lab: newUnservedLab(t), blobs: map[string][]byte{}}
	if l.client, err = netbootapi.New(netbootapi.ClientOptions{Address: server.APIAddr().String(), TLS: tls}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(ctx); err != nil {
			t.Errorf("netbootd: %v", err)
		}
	})
	running.Go(func() {
		frame := make([]byte, 1<<16)
		for {
			n, err := tap.Read(frame)
			if err != nil {
				return
			}
			if g := l.guest.Load(); g != nil {
				g.Receive(testNIC, frame[:n])
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		l.client.Close()
		_ = tap.Close()
		running.Wait()
	})
	l.lab.config.NICs[0].Send = func(frame []byte) { _, _ = tap.Write(frame) }
	l.declare()
	return l
}

func (l *realLab) declare() {
	l.t.Helper()
	l.config = netbootapi.ServerConfig{
		Network: netbootapi.Network{
			MAC: serverMAC.String(), Address: netip.PrefixFrom(serverAddr, 24), LeaseSeconds: 600,
			RangeStart: netip.MustParseAddr("10.9.0.100"), RangeEnd: netip.MustParseAddr("10.9.0.200"),
		},
		Programs: []netbootapi.Program{{Architecture: x8664, Name: "ipxe.efi", Blob: l.blob(l.program)}},
		TextKey:  []byte("the key of the texts of this test"),
	}
	l.machine = netbootapi.Machine{
		UID: machineUID,
		Content: netbootapi.Content{
			Name: "target-1", Hostname: "target-1", MAC: testMAC.String(), Address: guestAddr, Architecture: x8664,
			Kernel: l.blob(l.files["kernel"]), Initrd: l.blob(l.files["initrd"]), Overlay: l.blob(l.files["overlay"]),
			Image: l.blob(l.files["image"]), ImagePin: l.plan.ImagePin, ProfileDigest: "sha256:profile", SSHUser: "lab",
		},
		Control: netbootapi.Control{
			Boot: netbootapi.BootInstall, Attempt: attempt, InstanceID: instanceID, Token: bootToken, SeedToken: seedToken, PowerOn: "p1",
		},
	}
	l.whole(func() error { return l.client.PutServer(l.t.Context(), l.config.Encode()) })
	l.put()
	l.observe("all services", func(s netbootapi.State, m netbootapi.MachineState) bool {
		return s.Services["dhcp"].Serving && s.Services["tftp"].Serving && s.Services["http"].Serving && len(s.MissingBlobs)+len(m.MissingBlobs) == 0
	})
}

// declareAttempt declares a new installation of a blank disk.
func (l *realLab) declareAttempt(attempt string, faults ...Fault) {
	l.t.Helper()
	l.machine.Attempt, l.machine.BootConfirmed = attempt, ""
	l.machine.InstanceID, l.machine.PowerOn = "target-1-"+attempt, "p-"+attempt
	l.put()
	if err := l.disk.Store(nil); err != nil {
		l.t.Fatal(err)
	}
	l.changed(func() { l.order = []string{testNIC, testDisk} })
	l.lab.config.Options.Faults = faults
}

// confirm lets the machine boot from its disk, once its installation is reported.
func (l *realLab) confirm() {
	l.t.Helper()
	l.observe("a finished installation", func(_ netbootapi.State, m netbootapi.MachineState) bool {
		return m.Install != nil && !m.Install.DoneAt.IsZero()
	})
	l.changed(func() { l.order = []string{testDisk, testNIC} })
	l.machine.BootConfirmed = l.machine.Attempt
	l.put()
}

// TestThroughNetbootd drives a machine from power-on to SSH through the real netbootd,
// over a real interface. TestFaultReasons does so with each fault.
func TestThroughNetbootd(t *testing.T) {
	if !namespacetest.Enter(t, unix.CLONE_NEWNET) {
		return
	}
	l := newRealLab(t)
	l.declareAttempt("a1")
	off, _ := l.powerOn()
	l.confirm()
	s, m := l.observe("a machine that is ready", func(_ netbootapi.State, m netbootapi.MachineState) bool {
		return m.PhoneHome != nil && m.SSH.Up && m.CloudInit != nil && !m.CloudInit.EndedAt.IsZero()
	})
	off()
	for what, at := range map[string]time.Time{
		"DISCOVER": m.DiscoverAt, "REQUEST": m.RequestAt, "network boot program": m.ProgramAt, "script": m.ScriptAt,
		"kernel": m.KernelAt, "initrd and overlay": m.InitrdAt, "cloud-init's data": m.CloudInitAt,
	} {
		if at.IsZero() {
			t.Errorf("%s: got no time, want one", what)
		}
	}
	if len(m.Warnings) != 0 || len(m.CloudInit.Failures) != 0 || len(s.Refused) != 0 || len(s.Unknown) != 0 {
		t.Errorf("got warnings %+v, failures %+v, refusals %v and unknown clients %+v, want none",
			m.Warnings, m.CloudInit.Failures, s.Refused, s.Unknown)
	}
	if m.Install.BytesWritten != m.Install.BytesTotal || m.Install.BytesTotal == 0 {
		t.Errorf("got %d of %d bytes, want all", m.Install.BytesWritten, m.Install.BytesTotal)
	}
	if len(m.PhoneHome.HostKeys) != 2 || m.PhoneHome.InstanceID != l.machine.InstanceID || m.PhoneHome.Hostname != "target-1" {
		t.Errorf("phone-home: got %+v, want two host keys of %s", m.PhoneHome, l.machine.InstanceID)
	}
	if got := strings.Count(l.serial.String(), ">>Start PXE over IPv4."); got != 1 {
		t.Errorf("got %d network boots, want 1", got)
	}
}
