// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/namespacetest"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd"
)

// netbootdDir is the environment variable with the directory of the netbootd process.
const netbootdDir = "PXELAB_TEST_NETBOOTD"

// TestNetbootdProcess is the netbootd of BenchmarkNetbootd, until SIGTERM ends it. In a run
// of the tests it does nothing.
func TestNetbootdProcess(t *testing.T) {
	dir := os.Getenv(netbootdDir)
	if dir == "" {
		return
	}
	// As cmd/netbootd does.
	debug.SetGCPercent(netbootd.GCPercent)
	debug.SetMemoryLimit(netbootd.MemoryLimit)
	raw, err := os.ReadFile(filepath.Join(dir, "credentials"))
	if err != nil {
		t.Fatal(err)
	}
	var credentials netbootapi.ServerCredentials
	if err := json.Unmarshal(raw, &credentials); err != nil {
		t.Fatal(err)
	}
	server, err := netbootd.New(netbootd.Options{
		StateDir: filepath.Join(dir, "state"), Version: "test", APIAddress: "127.0.0.1:0", Seed: credentials, HTTPPort: 80, TFTPPort: 69,
	})
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(dir, "address")
	if err := errors.Join(os.WriteFile(address+".new", []byte(server.APIAddr().String()), 0o600), os.Rename(address+".new", address)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := server.Serve(ctx); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkNetbootd installs simulated machines, 32 at a time, from a real netbootd in a
// process of its own, over a real interface and with the files of the byte budget that
// test/e2e's BenchmarkScale has. An operation is a machine from its first entry until SSH
// answers; all remain on. It reports what a machine costs netbootd: milliseconds of a
// processor in the program and in the kernel, which also does the network's work, system
// calls that read or write, bytes written to disk, requests, and its largest memory.
//
//	go test ./internal/simulator/internal/guest -run '^$' -bench Netbootd -benchtime 300x -cpuprofile /tmp/cpu
//
// writes the profile of netbootd to /tmp/cpu.netbootd.
func BenchmarkNetbootd(b *testing.B) {
	if !namespacetest.Inside() {
		if b.N == 1 {
			benchInNamespace(b)
		}
		return
	}
	l := newScaleLab(b)
	before := l.usage()
	b.ResetTimer()
	l.install(b.N)
	b.StopTimer()
	after := l.usage()
	for _, metric := range []struct {
		unit string
		size float64
	}{
		{"user-ms/op", after.user - before.user},
		{"kernel-ms/op", after.kernel - before.kernel},
		{"calls/op", after.calls - before.calls},
		{"diskB/op", after.written - before.written},
		{"requests/op", after.requests - before.requests},
	} {
		b.ReportMetric(metric.size/float64(b.N), metric.unit)
	}
	b.ReportMetric(after.memory/1e6, "peakMB")
}

// benchInNamespace runs the benchmark again in a new network namespace.
func benchInNamespace(b *testing.B) {
	b.Helper()
	args := []string{"-test.run=^$", "-test.bench=^" + b.Name() + "$"}
	for _, name := range []string{"test.benchtime", "test.cpuprofile"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			args = append(args, "-"+name+"="+f.Value.String())
		}
	}
	cmd := exec.CommandContext(b.Context(), "/proc/self/exe", args...)
	namespacetest.Prepare(cmd, unix.CLONE_NEWNET)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
}

// scaleLab is a netbootd process and its machines.
type scaleLab struct {
	b       *testing.B
	ctx     context.Context //nolint:containedctx // its lifetime is that of the benchmark
	tap     *os.File
	client  *netbootapi.Client
	pid     int
	config  netbootapi.ServerConfig
	content netbootapi.Content
	blobs   map[string][]byte
	running sync.WaitGroup

	mu        sync.Mutex
	byUID     map[string]*scaleMachine
	byMAC     map[string]*scaleMachine
	byAddress map[netip.Addr]*scaleMachine
}

// scaleMachine is a machine and its entry.
type scaleMachine struct {
	entry     netbootapi.Machine
	mac       net.HardwareAddr
	guest     *Guest
	installed atomic.Bool
	ready     chan struct{}
	once      sync.Once // closes ready
}

// scaleNetwork has room for 60,000 machines.
var scaleNetwork = netip.MustParsePrefix("10.9.0.1/16")

func newScaleLab(b *testing.B) *scaleLab {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &scaleLab{
		b: b, ctx: ctx, tap: openTap(b), blobs: map[string][]byte{},
		byUID: map[string]*scaleMachine{}, byMAC: map[string]*scaleMachine{}, byAddress: map[netip.Addr]*scaleMachine{},
	}
	l.start()
	l.running.Go(l.receive)
	l.declare()
	l.running.Go(func() { _ = l.client.Watch(ctx, netbootapi.Position{}, l.observed) })
	b.Cleanup(func() {
		cancel()
		_ = l.tap.Close()
		l.running.Wait()
		l.client.Close()
	})
	return l
}

// start starts the netbootd process and connects to it.
func (l *scaleLab) start() {
	l.b.Helper()
	dir := l.b.TempDir()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		l.b.Fatal(err)
	}
	raw, err := json.Marshal(credentials.Server())
	if err != nil {
		l.b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "credentials"), raw, 0o600); err != nil {
		l.b.Fatal(err)
	}
	args := []string{"-test.run=^TestNetbootdProcess$"}
	if f := flag.Lookup("test.cpuprofile"); f != nil && f.Value.String() != "" {
		args = append(args, "-test.cpuprofile="+f.Value.String()+".netbootd")
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", args...) // it ends with a signal
	cmd.Env = append(os.Environ(), netbootdDir+"="+dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		l.b.Fatal(err)
	}
	l.pid = cmd.Process.Pid
	l.b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			l.b.Errorf("netbootd: %v\n%s", err, output.String())
		}
	})
	address := l.await("the address of netbootd", func() string {
		raw, _ := os.ReadFile(filepath.Join(dir, "address"))
		return string(raw)
	})
	tls, err := credentials.ClientTLS()
	if err != nil {
		l.b.Fatal(err)
	}
	if l.client, err = netbootapi.New(netbootapi.ClientOptions{Address: address, TLS: tls}); err != nil {
		l.b.Fatal(err)
	}
}

// await waits until get returns something.
func (l *scaleLab) await(what string, get func() string) string {
	l.b.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if got := get(); got != "" {
			return got
		}
		if time.Now().After(limit) {
			l.b.Fatalf("timeout: want %s", what)
		}
	}
}

func (l *scaleLab) blob(content []byte) netbootapi.Blob {
	blob := netbootapi.Blob{Digest: netbootapi.Digest(content), Size: int64(len(content))}
	l.blobs[blob.Digest] = content
	return blob
}

func (l *scaleLab) text(text string) netbootapi.Blob {
	blob := netbootapi.TextBlob(l.config.TextKey, text)
	l.blobs[blob.Digest] = []byte(text)
	return blob
}

// declare puts the server's configuration, uploads all content and waits for the services.
func (l *scaleLab) declare() {
	l.b.Helper()
	random := rand.NewChaCha8([32]byte{2})
	bytesOf := func(size int) []byte {
		content := make([]byte, size)
		_, _ = random.Read(content)
		return content
	}
	l.config = netbootapi.ServerConfig{
		Network: netbootapi.Network{
			MAC: serverMAC.String(), Address: scaleNetwork, LeaseSeconds: 3600,
			RangeStart: netip.MustParseAddr("10.9.255.1"), RangeEnd: netip.MustParseAddr("10.9.255.200"),
		},
		Programs: []netbootapi.Program{{Architecture: x8664, Name: "ipxe.efi", Blob: l.blob(bytesOf(64 << 10))}},
		TextKey:  []byte("the key of the texts of this test"),
	}
	var image blobWriter
	const imageSize = 1 << 20
	h, err := imagestream.Write(l.ctx, &image, bytes.NewReader(bytesOf(imageSize)), imageSize, imagestream.Options{ChunkSize: 64 << 10})
	if err != nil {
		l.b.Fatal(err)
	}
	l.content = netbootapi.Content{
		Architecture: x8664, Kernel: l.blob(bytesOf(64 << 10)), Initrd: l.blob(bytesOf(64 << 10)), Overlay: l.blob(bytesOf(128 << 10)),
		Image: l.blob(image.b), ImagePin: h.Digest(), ProfileDigest: "sha256:profile", SSHUser: "lab",
		SSHAuthorizedKeys: l.text("ssh-ed25519 AAAA user\n"),
	}
	l.whole(func() error { return l.client.PutServer(l.ctx, l.config.Encode()) })
	first := l.machine(0).entry
	l.whole(func() error { return l.put(&first) })
	l.await("all services", func() string {
		o, err := l.client.Observe(l.ctx)
		if s := o.State.Services; err != nil || !s["dhcp"].Serving || !s["tftp"].Serving || !s["http"].Serving {
			return ""
		}
		return "serving"
	})
}

// whole calls put again after it has uploaded what is missing.
func (l *scaleLab) whole(put func() error) {
	l.b.Helper()
	err := put()
	if missing := (*netbootapi.MissingError)(nil); errors.As(err, &missing) {
		for _, b := range missing.Blobs {
			if err := l.client.UploadBlob(l.ctx, b, bytes.NewReader(l.blobs[b.Digest]), nil); err != nil {
				l.b.Fatal(err)
			}
		}
		err = put()
	}
	if err != nil {
		l.b.Fatal(err)
	}
}

func (l *scaleLab) put(m *netbootapi.Machine) error {
	return l.client.PutMachine(l.ctx, m.UID, netbootapi.NewEntry(&m.Content, m.Control))
}

// machine returns machine n, which is switched off.
func (l *scaleLab) machine(n int) *scaleMachine {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0xaa, byte(n >> 8), byte(n)}
	id := strconv.Itoa(n)
	content := l.content
	content.Name, content.Hostname, content.MAC = "target-"+id, "target-"+id, mac.String()
	content.Address = netip.AddrFrom4([4]byte{10, 9, byte(1 + n/200), byte(1 + n%200)})
	m := &scaleMachine{mac: mac, ready: make(chan struct{}), entry: netbootapi.Machine{
		UID: "uid-" + id, Content: content,
		Control: netbootapi.Control{
			Boot: netbootapi.BootInstall, Attempt: "attempt-" + id, InstanceID: "instance-" + id, Token: fmt.Sprintf("token-%032d", n),
			PowerOn: "on-" + id,
		},
	}}
	m.guest = New(Config{
		UUID: fmt.Sprintf("12345678-1234-5678-0102-%012x", n), Disk: &memoryDisk{size: 1 << 30}, DiskID: testDisk, Serial: io.Discard,
		NICs: []NIC{{ID: testNIC, MAC: mac, Send: func(frame []byte) { _, _ = l.tap.Write(frame) }}},
		BootOrder: func() []string {
			if m.installed.Load() {
				return []string{testDisk, testNIC}
			}
			return []string{testNIC, testDisk}
		},
	})
	return m
}

// chaddrAt is where a frame with an answer of DHCP has the client's MAC address.
const chaddrAt = header.EthernetMinimumSize + header.IPv4MinimumSize + header.UDPMinimumSize + 28

// receive passes frames to the machines: ARP requests, as the switch does, to the machine
// that has the address, and other broadcasts, which are answers of DHCP, to their client.
func (l *scaleLab) receive() {
	frame := make([]byte, 1<<16)
	for {
		n, err := l.tap.Read(frame)
		if err != nil {
			return
		}
		if n < header.EthernetMinimumSize {
			continue
		}
		l.mu.Lock()
		m := l.byMAC[string(frame[:6])]
		switch arp := header.ARP(frame[header.EthernetMinimumSize:n]); {
		case m != nil:
		case arp.IsValid():
			if address, ok := netip.AddrFromSlice(arp.ProtocolAddressTarget()); ok {
				m = l.byAddress[address]
			}
		case n >= chaddrAt+6:
			m = l.byMAC[string(frame[chaddrAt:chaddrAt+6])]
		}
		l.mu.Unlock()
		if m != nil {
			m.guest.Receive(testNIC, frame[:n])
		}
	}
}

// observed does what a manager does when an installation is done: the machine boots from
// its disk, and its entry confirms that.
func (l *scaleLab) observed(u netbootapi.Update) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, s := range u.Machines {
		m := l.byUID[uid]
		if m == nil || s == nil {
			continue
		}
		if len(s.Warnings) > 0 {
			l.b.Errorf("%s: got warnings %+v, want none", uid, s.Warnings)
		}
		if s.Install != nil && !s.Install.DoneAt.IsZero() && m.installed.CompareAndSwap(false, true) {
			l.running.Go(func() {
				entry := m.entry
				entry.Boot, entry.BootConfirmed = netbootapi.BootDisk, entry.Attempt
				if err := l.put(&entry); err != nil && l.ctx.Err() == nil {
					l.b.Errorf("confirming the boot order: %v", err)
				}
			})
		}
		if s.PhoneHome != nil && s.SSH.Up && s.CloudInit != nil && !s.CloudInit.EndedAt.IsZero() {
			m.once.Do(func() { close(m.ready) })
		}
	}
	return nil
}

// install installs n machines and waits until all are ready.
func (l *scaleLab) install(n int) {
	l.b.Helper()
	places := make(chan struct{}, 32)
	var booting sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		booting.Go(func() {
			defer func() { <-places }()
			if err := l.boot(l.machine(1 + i)); err != nil {
				l.b.Errorf("machine %d: %v", 1+i, err)
			}
		})
	}
	booting.Wait()
}

var errNotReady = errors.New("the machine is not ready in time")

// boot puts the entry of a machine, as a manager does before and after it is powered on, and
// waits until the machine is ready.
func (l *scaleLab) boot(m *scaleMachine) error {
	off := m.entry
	off.PowerOn = ""
	if err := l.put(&off); err != nil {
		return err
	}
	l.mu.Lock()
	l.byUID[m.entry.UID], l.byMAC[string(m.mac)], l.byAddress[m.entry.Address] = m, m, m
	l.mu.Unlock()
	if err := l.put(&m.entry); err != nil {
		return err
	}
	l.running.Go(func() { m.guest.Run(l.ctx) })
	select {
	case <-m.ready:
		return nil
	case <-time.After(patience):
		o, err := l.client.Observe(l.ctx)
		return errors.Join(fmt.Errorf("%w: %+v", errNotReady, o.Machines[m.entry.UID]), err)
	}
}

// scaleUsage is what the netbootd process has used.
type scaleUsage struct{ user, kernel, calls, written, requests, memory float64 }

func (l *scaleLab) usage() scaleUsage {
	l.b.Helper()
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(l.pid), name))
		if err != nil {
			l.b.Fatal(err)
		}
		return string(raw)
	}
	// value returns the number after a name in a file of lines.
	value := func(text, name string) float64 {
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
				n, _ := strconv.ParseFloat(fields[1], 64)
				return n
			}
		}
		return 0
	}
	stat := read("stat")
	times := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // in ticks of 10 ms, see proc(5)
	user, _ := strconv.ParseFloat(times[11], 64)
	kernel, _ := strconv.ParseFloat(times[12], 64)
	counts := read("io")
	u := scaleUsage{
		user: 10 * user, kernel: 10 * kernel, calls: value(counts, "syscr:") + value(counts, "syscw:"), written: value(counts, "write_bytes:"),
		memory: 1024 * value(read("status"), "VmHWM:"),
	}
	metrics, err := l.client.Metrics(l.ctx)
	if err != nil {
		l.b.Fatal(err)
	}
	for _, r := range metrics.Requests {
		u.requests += float64(r.Count)
	}
	return u
}
