// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"crypto/ed25519"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"github.com/pxelab/pxelab/internal/installer"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// firmwareTrace is what the firmware and iPXE send up to the start of the installer.
var firmwareTrace = []string{
	"DHCP DISCOVER firmware", "DHCP REQUEST firmware",
	"TFTP ipxe.efi octet tsize 0 blksize 1468 windowsize 4", "TFTP error 8",
	"TFTP ipxe.efi octet blksize 1468 windowsize 4",
	"TFTP autoexec.ipxe octet blksize 1432 tsize 0",
	"GET boot.ipxe", "GET kernel", "GET initrd", "GET overlay",
}

var installerTrace = []string{
	"GET plan", "report Start", "GET image", "report Write", "report Verify", "report Partition", "report Configure", "report Done",
}

// withoutEvents returns a trace without cloud-init's events and without stages of the
// installer that a slow reporter may miss.
func withoutEvents(trace []string) []string {
	var kept []string
	for _, line := range trace {
		missed := line == "report Start" || line == "report Write" || line == "report Verify" || line == "report Partition" ||
			line == "report Configure"
		if !strings.HasPrefix(line, "event ") && !missed {
			kept = append(kept, line)
		}
	}
	return kept
}

// TestPowerOnToPhoneHome follows a machine from power-on through its installation to
// the installed system, which then boots again from its disk.
func TestPowerOnToPhoneHome(t *testing.T) {
	l := newLab(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	l.seed["user-data"] = "#cloud-config\nusers:\n  - name: lab\n    ssh_authorized_keys: [\"" +
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + "\"]\n"
	_, ended := l.powerOn()
	l.awaitTrace("event modules-final finish SUCCESS")
	l.awaitOutput("target-1.lab.test login: ")

	want := slices.Concat(firmwareTrace, installerTrace, []string{
		"GET ci/network-config", "GET ci/meta-data", "GET ci/user-data", "GET ci/vendor-data", "phone-home",
	})
	if diff := cmp.Diff(withoutEvents(want), withoutEvents(l.traced())); diff != "" {
		t.Errorf("what the machine sent (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"the installer reset the machine"}, l.requested()); diff != "" {
		t.Errorf("resets (-want +got):\n%s", diff)
	}
	l.checkPhoneHome()
	l.checkHeads()
	if diff := cmp.Diff(map[string]bool{testMAC.String(): true}, l.sourceSet()); diff != "" {
		t.Errorf("source addresses (-want +got):\n%s", diff)
	}
	last := l.lastReport()
	if last.Attempt != attempt || last.BytesWritten != last.BytesTotal || last.BytesTotal == 0 {
		t.Errorf("last report: got %+v, want all bytes of attempt %s", last, attempt)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	l.checkSSH(signer)

	l.guest.Load().PowerButton()
	if end := <-ended; end != PowerOff {
		t.Errorf("power button: got end %s, want %s", end, PowerOff)
	}

	// The installed system needs nothing of its seed, and phones home once.
	l.changed(func() { l.trace = nil })
	off, _ := l.powerOn()
	l.awaitTrace("event modules-final finish SUCCESS")
	if got := withoutEvents(l.traced()); len(got) != 0 {
		t.Errorf("second boot: got %q besides cloud-init's events, want nothing", got)
	}
	l.checkSSH(signer)
	if end := off(); end != Stopped {
		t.Errorf("got end %s, want %s", end, Stopped)
	}
}

func (l *lab) sourceSet() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := map[string]bool{}
	for source := range l.sources {
		set[source] = true
	}
	return set
}

func (l *lab) checkPhoneHome() {
	l.t.Helper()
	for name, want := range map[string]string{
		"instance_id": instanceID, "hostname": "target-1", "fqdn": "target-1.lab.test", "pub_key_rsa": "N/A",
	} {
		if got := l.phoned.Get(name); got != want {
			l.t.Errorf("phone-home: got %s %q, want %q", name, got, want)
		}
	}
	for name, kind := range map[string]string{"pub_key_ed25519": ssh.KeyAlgoED25519, "pub_key_ecdsa": ssh.KeyAlgoECDSA256} {
		key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(l.phoned.Get(name)))
		if err != nil || key.Type() != kind || comment != "root@target-1" {
			l.t.Errorf("phone-home: got %s %q, want a key of type %s", name, l.phoned.Get(name), kind)
		}
	}
}

// checkHeads checks how programs introduce themselves over HTTP.
func (l *lab) checkHeads() {
	l.t.Helper()
	for file, want := range map[string]string{
		"kernel": "iPXE/1.21.1+git20250501.dad20602+dfsg-1", "plan": "Go-http-client/1.1", "ci/meta-data": "Cloud-Init/25.1.4",
	} {
		if got := l.heads[file].Get("User-Agent"); got != want {
			l.t.Errorf("%s: got user agent %q, want %q", file, got, want)
		}
	}
}

// checkSSH logs in with a key and expects the host key that the machine reported.
func (l *lab) checkSSH(signer ssh.Signer) {
	l.t.Helper()
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l.phoned.Get("pub_key_ed25519")))
	if err != nil {
		l.t.Fatal(err)
	}
	to := tcpip.FullAddress{Addr: tcpip.AddrFrom4(guestAddr.As4()), Port: sshPort}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := gonet.DialContextTCP(ctx, l.stack, to, ipv4.ProtocolNumber)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close()
	c, channels, requests, err := ssh.NewClientConn(conn, "target-1:22", &ssh.ClientConfig{
		User: "lab", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(want),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	})
	if err != nil {
		l.t.Fatalf("SSH: %v", err)
	}
	client := ssh.NewClient(c, channels, requests)
	defer client.Close()
	if !strings.HasPrefix(string(c.ServerVersion()), "SSH-2.0-OpenSSH_") {
		l.t.Errorf("got SSH version %q, want OpenSSH's", c.ServerVersion())
	}
	session, err := client.NewSession()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := session.Output("hostname")
	if exit, ok := err.(*ssh.ExitError); !ok || exit.ExitStatus() != 1 || string(out) != noShell {
		l.t.Errorf("command: got %q, error %v, want %q and status 1", out, err, noShell)
	}
}

func TestUnauthorizedKeyIsRefused(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	allow := authorize([]account{{Name: "lab", Keys: []string{"garbage", line}}})
	for user, want := range map[string]bool{"lab": true, "root": false} {
		if _, err := allow(connOf(user), signer.PublicKey()); (err == nil) != want {
			t.Errorf("user %s: got error %v, want access %t", user, err, want)
		}
	}
}

type connOf string

func (c connOf) User() string          { return string(c) }
func (c connOf) SessionID() []byte     { return nil }
func (c connOf) ClientVersion() []byte { return nil }
func (c connOf) ServerVersion() []byte { return nil }
func (c connOf) RemoteAddr() net.Addr  { return nil }
func (c connOf) LocalAddr() net.Addr   { return nil }

// TestIPXEWithoutAutoexec covers iPXE builds and servers without that script: iPXE
// obtains its own lease and boots the file that it names.
func TestIPXEWithoutAutoexec(t *testing.T) {
	l := newLab(t)
	l.autoexec = ""
	l.powerOn()
	l.awaitTrace("GET plan")
	want := slices.Concat(firmwareTrace[:6], []string{"DHCP DISCOVER iPXE", "DHCP REQUEST iPXE"}, firmwareTrace[6:])
	if diff := cmp.Diff(want, l.traced()[:len(want)]); diff != "" {
		t.Errorf("what the machine sent (-want +got):\n%s", diff)
	}
}

// TestDiskScript boots an installed machine from the network, whose script continues
// with the disk.
func TestDiskScript(t *testing.T) {
	l := newLab(t)
	l.script = "#!ipxe\nexit 1\n"
	r := bootedRecord(t)
	if err := r.store(l.disk); err != nil {
		t.Fatal(err)
	}
	l.powerOn()
	l.awaitOutput("target-1 login: ")
	if got := l.traced(); !slices.Contains(got, "GET boot.ipxe") || slices.Contains(got, "GET kernel") {
		t.Errorf("got the trace %q, want the script and no kernel", got)
	}
}

// TestWaitScript has content that is not there yet.
func TestWaitScript(t *testing.T) {
	l := newLab(t)
	install := l.script
	l.script = "#!ipxe\n:again\nsleep 0.01 ||\nchain --replace --autofree " + testBase + "boot.ipxe || goto again\n"
	l.powerOn()
	const rounds = 2 * maxDepth
	l.await("many rounds", func() bool {
		n := 0
		for _, line := range l.trace {
			if line == "GET boot.ipxe" {
				n++
			}
		}
		if n >= rounds {
			l.script = install
		}
		return n >= rounds
	})
	l.awaitTrace("report Done")
}

// TestBlankDisk has nothing to boot from.
func TestBlankDisk(t *testing.T) {
	l := newLab(t)
	l.order = []string{testDisk}
	off, _ := l.powerOn()
	l.awaitOutput("BdsDxe: No bootable option or device was found.")
	l.guest.Load().PowerButton() // the firmware ignores it
	l.guest.Load().Reset()
	l.awaitOutputs("BdsDxe: No bootable option or device was found.", 2)
	if end := off(); end != Stopped {
		t.Errorf("got end %s, want %s", end, Stopped)
	}
	if got := l.requested(); len(got) != 0 {
		t.Errorf("got resets %q, want none that the guest requested", got)
	}
}

// TestSystemByDHCP boots a system whose network configuration asks for a lease.
func TestSystemByDHCP(t *testing.T) {
	l := newLab(t)
	l.order = []string{testDisk}
	r := bootedRecord(t)
	r.NetworkConfig = "version: 2\nethernets:\n  lab:\n    match: {macaddress: \"" + testMAC.String() + "\"}\n    dhcp4: true\n"
	if err := r.store(l.disk); err != nil {
		t.Fatal(err)
	}
	l.powerOn()
	l.awaitOutput("target-1 login: ")
	if diff := cmp.Diff([]string{"DHCP DISCOVER system", "DHCP REQUEST system"}, l.traced()); diff != "" {
		t.Errorf("what the machine sent (-want +got):\n%s", diff)
	}
}

// bootedRecord is the disk of a system that has booted before.
func bootedRecord(t testing.TB) *record {
	t.Helper()
	keys, err := newHostKeys("root@target-1")
	if err != nil {
		t.Fatal(err)
	}
	return &record{
		Installed: true, Hostname: "target-1", HostKeys: keys, MachineID: "0123456789abcdef0123456789abcdef",
		NetworkConfig: "version: 2\nethernets:\n  lab: {addresses: [" + guestAddr.String() + "/24]}\n",
		Instance:      &instance{ID: instanceID, Hostname: "target-1"},
	}
}

// TestMemoryAtRest measures machines that have booted and wait. A TCP/IP stack has a
// goroutine for each processor that Go uses.
func TestMemoryAtRest(t *testing.T) {
	const machines, limit = 40, 300 << 10
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	r := bootedRecord(t)
	before := memory()
	for range machines {
		out := &console{}
		disk := &memoryDisk{size: 1 << 30}
		if err := r.store(disk); err != nil {
			t.Fatal(err)
		}
		g := New(Config{
			UUID: testUUID, DiskID: testDisk, Disk: disk, NICs: []NIC{{ID: testNIC, MAC: testMAC}}, Serial: out,
			BootOrder: func() []string { return []string{testDisk} },
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			g.Run(ctx)
			close(done)
		}()
		t.Cleanup(func() {
			cancel()
			<-done
		})
		for !strings.Contains(out.String(), "login: ") {
			time.Sleep(time.Millisecond)
		}
	}
	each := (memory() - before) / machines
	t.Logf("%d KiB a machine", each>>10)
	if each > limit {
		t.Errorf("got %d bytes a machine, want at most %d", each, limit)
	}
}

// memory returns what heap and stacks hold.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

func TestReceiveIsBounded(t *testing.T) {
	g := New(Config{NICs: []NIC{{ID: testNIC, MAC: testMAC}}, Options: Options{LinkRate: 1}})
	n := g.nics[0]
	frame := make([]byte, 1514)
	copy(frame, testMAC)
	g.Receive(testNIC, frame) // no stack uses the card
	if n.queue != nil {
		t.Error("got a queued frame without a stack, want none")
	}
	n.attach(newCard(n, defaultMTU))
	defer n.detach()
	for range 1000 {
		g.Receive(testNIC, frame)
		g.Receive("other", frame)
		g.Receive(testNIC, frame[:10])
		g.Receive(testNIC, make([]byte, 1<<16))
	}
	if got, want := len(n.queue), maxQueued/len(frame); got != want {
		t.Errorf("got %d queued frames, want %d", got, want)
	}
}

// TestLimiter adds up the waits of a slow link.
func TestLimiter(t *testing.T) {
	const rate, frames, size = 1000, 50, 100
	l := newLimiter(rate)
	started := time.Now()
	var wait time.Duration
	for range frames {
		wait = l.take(size)
	}
	want := frames*size*time.Second/rate - burst - time.Since(started)
	if wait < want {
		t.Errorf("the last of %d bytes: got a wait of %s, want at least %s", frames*size, wait, want)
	}
	if wait := newLimiter(0).take(1 << 30); wait != 0 {
		t.Errorf("without a limit: got a wait of %s, want none", wait)
	}
}

// TestInstallsOverSlowLink has a link that is slower than the image is long.
func TestInstallsOverSlowLink(t *testing.T) {
	l := newLab(t)
	const rate = 1 << 20
	l.config.Options.LinkRate = rate
	started := time.Now()
	l.powerOn()
	l.awaitTrace("report Done")
	least := time.Duration(l.plan.ImageSize) * time.Second / rate
	if took := time.Since(started); took < least {
		t.Errorf("installed in %s, want at least the %s that %d bytes take", took, least, l.plan.ImageSize)
	}
}

// TestLossyLink installs a machine over a link that loses and repeats frames.
func TestLossyLink(t *testing.T) {
	l := newLab(t)
	l.lossy = true
	// The waits are short, so that a busy host may need another boot.
	l.order = slices.Repeat([]string{testNIC}, 1000)
	l.powerOn(func(g *Guest) { g.hurry = 40 })
	l.awaitTrace("phone-home")
	if got := l.lastReport(); got.BytesWritten != got.BytesTotal {
		t.Errorf("got the report %+v, want all bytes", got)
	}
}

// TestRenewal renews a lease by a message to the server, before it ends.
func TestRenewal(t *testing.T) {
	l := newLab(t)
	l.order = []string{testDisk}
	l.leaseSeconds = 2
	r := bootedRecord(t)
	r.NetworkConfig = "version: 2\nethernets:\n  lab: {dhcp4: true}\n"
	if err := r.store(l.disk); err != nil {
		t.Fatal(err)
	}
	l.powerOn()
	l.await("two renewals", func() bool {
		n := 0
		for _, line := range l.trace {
			if line == "DHCP REQUEST system" {
				n++
			}
		}
		return n > 2
	})
}

func TestKexec(t *testing.T) {
	l := newLab(t)
	l.plan.Handoff = "Kexec"
	l.powerOn()
	l.awaitTrace("phone-home")
	if got := l.requested(); len(got) != 0 {
		t.Errorf("got resets %q, want none", got)
	}
}

// TestFlippedByte expects the installer's own error for an image that is damaged at
// its source.
func TestFlippedByte(t *testing.T) {
	l := newLab(t)
	image := l.files["image"]
	image[len(image)/2] ^= 1
	l.powerOn()
	if got := l.failure(); !strings.Contains(got, "does not match its digest") {
		t.Errorf("got the report %q, want a frame that does not match its digest", got)
	}
}

func TestSmallDisk(t *testing.T) {
	l := newLab(t)
	l.disk.size = 1 << 10
	l.powerOn()
	if got := l.failure(); !strings.HasPrefix(got, "no disk for the image") {
		t.Errorf("got the report %q, want no disk for the image", got)
	}
}

// TestRootDiskHints: the installer follows the plan's hints as the real one does.
func TestRootDiskHints(t *testing.T) {
	l := newLab(t)
	l.config.DiskSerial = "S1"
	l.plan.RootDisk = installerapi.RootDisk{Serial: "S2"}
	l.powerOn()
	if got := l.failure(); !strings.HasPrefix(got, "no disk fits the image") || !strings.Contains(got, `serial "S1", not that of spec.rootDisk`) {
		t.Errorf("got the report %q, want no disk that fits, with its serial", got)
	}
}

// TestCleaning erases the system of an earlier installation, and reports it as a stage.
func TestCleaning(t *testing.T) {
	for cleaning, erased := range map[string]bool{"": false, installerapi.CleanMetadata: true, installerapi.CleanFull: true} {
		disk := &memoryDisk{size: 1 << 30}
		if err := bootedRecord(t).store(disk); err != nil {
			t.Fatal(err)
		}
		var lines []string
		m := &installation{
			g:        New(Config{UUID: testUUID, Disk: disk}),
			reporter: installer.NewReporter(func(line string) { lines = append(lines, line) }),
			plan:     installerapi.Plan{Cleaning: cleaning},
		}
		if err := m.clean(m.g.disks()[0]); err != nil {
			t.Fatal(err)
		}
		if r, err := loadRecord(disk); err != nil || r.bootable() == erased {
			t.Errorf("%q: got record %+v, %v, want it erased %t", cleaning, r, err, erased)
		}
		if got := strings.Contains(strings.Join(lines, " "), "Clean 0%"); got != erased {
			t.Errorf("%q: got lines %q, want the stage Clean %t", cleaning, lines, erased)
		}
	}
}

// failure waits for the report of a failed installation and returns its message.
func (l *lab) failure() string {
	l.t.Helper()
	message := ""
	l.await("the failure", func() bool {
		for _, r := range l.reports {
			if r.Stage == installerapi.StageFailed {
				message = r.Message
			}
		}
		return message != ""
	})
	return message
}

func TestForeignAddressIsLocal(t *testing.T) {
	got := foreign(testMAC)
	if got.String() == testMAC.String() || got[0]&3 != 2 {
		t.Errorf("got %s, want another unicast address that is locally administered", got)
	}
}
