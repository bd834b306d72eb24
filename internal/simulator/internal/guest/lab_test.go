// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/pxelab/pxelab/internal/bootconfig/cloudinit"
	ipxescript "github.com/pxelab/pxelab/internal/bootconfig/ipxe"
	"github.com/pxelab/pxelab/internal/imagestream"
	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; it is much longer than any wait should take.
const patience = 2 * time.Minute

const (
	testUUID   = "12345678-1234-5678-0102-030405060708"
	testBase   = "http://10.9.0.1/m/token/"
	testNIC    = "net0"
	testDisk   = "disk0"
	attempt    = "a1"
	instanceID = "target-1-a1"
)

var (
	testMAC    = net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 1}
	serverMAC  = net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 0xfe}
	serverAddr = netip.MustParseAddr("10.9.0.1")
	guestAddr  = netip.MustParseAddr("10.9.0.11")
)

// memoryDisk is a Disk in memory.
type memoryDisk struct {
	mu   sync.Mutex
	data []byte
	size int64
}

func (d *memoryDisk) Load() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data), nil
}

func (d *memoryDisk) Store(data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = bytes.Clone(data)
	return nil
}

func (d *memoryDisk) Size() int64 { return d.size }

// console collects the output of a serial port.
type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// lab is a boot server in memory, which knows nothing of the guest but its frames.
type lab struct {
	t      *testing.T
	config Config
	disk   *memoryDisk
	serial *console
	guest  atomic.Pointer[Guest]

	stack *stack.Stack
	card  *channel.Endpoint

	// What is served.
	leaseSeconds     uint32
	autoexec, script string
	files            map[string][]byte
	plan             installerapi.Plan
	seed             map[string]string
	program          []byte

	// lossy makes the link lose one frame of twenty in each direction, and repeat
	// another.
	lossy  bool
	frames atomic.Int64

	mu    sync.Mutex
	news  chan struct{} // closed when something happens
	trace []string
	// sources counts the frames by source address.
	sources map[string]int
	order   []string
	resets  []string
	reports []installerapi.Progress
	phoned  url.Values
	// requests are the raw requests, without what differs between runs.
	heads map[string]http.Header
}

// newLab returns a lab whose machine installs itself from an image of some frames.
func newLab(t *testing.T, faults ...FaultType) *lab {
	t.Helper()
	l := newUnservedLab(t)
	for _, f := range faults {
		l.config.Options.Faults = append(l.config.Options.Faults, Fault{Type: f})
	}
	l.serve()
	return l
}

// newUnservedLab returns a lab without services.
func newUnservedLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{
		t: t, disk: &memoryDisk{size: 1 << 30}, serial: &console{}, news: make(chan struct{}),
		sources: map[string]int{}, order: []string{testNIC, testDisk}, heads: map[string]http.Header{},
		program: bytes.Repeat([]byte("ipxe"), 5000), leaseSeconds: 3600,
	}
	l.content()
	l.config = Config{
		UUID: testUUID, DiskID: testDisk, Disk: l.disk, CPUs: 2, MemoryMiB: 1024, Serial: l.serial,
		NICs:      []NIC{{ID: testNIC, MAC: testMAC, Send: l.fromGuest}},
		BootOrder: l.bootOrder,
		OnReset:   func(detail string) { l.changed(func() { l.resets = append(l.resets, detail) }) },
	}
	return l
}

// content makes what the lab serves.
func (l *lab) content() {
	l.t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	raw := make([]byte, 1<<20)
	for at := 0; at < len(raw); at += 64 << 10 {
		if (at>>16)%3 != 1 {
			_, _ = random.Read(raw[at : at+40<<10])
		}
	}
	var blob blobWriter
	h, err := imagestream.Write(context.Background(), &blob, bytes.NewReader(raw), int64(len(raw)), imagestream.Options{ChunkSize: 64 << 10})
	if err != nil {
		l.t.Fatal(err)
	}
	l.files = map[string][]byte{
		"kernel": bytes.Repeat([]byte("kernel"), 4000), "initrd": bytes.Repeat([]byte("initrd"), 9000),
		"overlay": bytes.Repeat([]byte("overlay."), 3000), "image": blob.b,
	}
	l.autoexec = ipxescript.Autoexec(testMAC.String(), testBase+"boot.ipxe")
	l.script, err = ipxescript.Install{
		Name: "target-1", BaseURL: testBase, Architecture: x8664, InitPath: installerapi.InitPath,
		URLArg: installerapi.ArgURL, NetArg: installerapi.ArgNet, PrefixLength: 24, OverlaySize: int64(len(l.files["overlay"])),
	}.Script()
	if err != nil {
		l.t.Fatal(err)
	}
	values := cloudinit.Values{
		Name: "target-1", Hostname: "target-1.lab.test", InstanceID: instanceID, Architecture: x8664, MAC: testMAC.String(),
		Address: guestAddr.String(), PrefixLength: 24, SeedBaseURL: testBase, SSHUser: "lab",
	}
	network, err := cloudinit.RenderNetworkConfig(context.Background(), "", values)
	if err != nil {
		l.t.Fatal(err)
	}
	user, err := cloudinit.RenderUserData(context.Background(), "", values)
	if err != nil {
		l.t.Fatal(err)
	}
	l.seed = map[string]string{
		"meta-data": cloudinit.MetaData(values), "user-data": user, "vendor-data": cloudinit.VendorData(values), "network-config": network,
	}
	l.plan = installerapi.Plan{
		Attempt: attempt, Hostname: "target-1", ImageDigest: "sha256:blob", ImageSize: int64(len(blob.b)), ImagePin: h.Digest(),
		Handoff: "Reset", SeedURL: values.SeedURL(), NetworkConfig: network,
	}
}

type blobWriter struct {
	mu sync.Mutex
	b  []byte
}

func (w *blobWriter) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if need := int(off) + len(p); need > len(w.b) {
		w.b = append(w.b, make([]byte, need-len(w.b))...)
	}
	return copy(w.b[off:], p), nil
}

// serve starts the lab's services on a separate TCP/IP stack.
func (l *lab) serve() {
	l.t.Helper()
	l.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	l.card = channel.New(4096, defaultMTU+header.EthernetMinimumSize, tcpip.LinkAddress(serverMAC))
	if err := l.stack.CreateNIC(1, ethernet.New(l.card)); err != nil {
		l.t.Fatal(err)
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(serverAddr.As4()), PrefixLen: 24},
	}
	if err := l.stack.AddProtocolAddress(1, address, stack.AddressProperties{}); err != nil {
		l.t.Fatal(err)
	}
	l.stack.SetRouteTable([]tcpip.Route{{Destination: address.AddressWithPrefix.Subnet(), NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			pkt := l.card.ReadContext(ctx)
			if pkt == nil {
				return
			}
			view := pkt.ToView()
			for range l.copies() {
				l.guest.Load().Receive(testNIC, view.AsSlice())
			}
			view.Release()
			pkt.DecRef()
		}
	})
	listener, err := gonet.ListenTCP(l.stack, tcpip.FullAddress{Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		l.t.Fatal(err)
	}
	web := &http.Server{Handler: l.handler(), ReadHeaderTimeout: patience}
	running.Go(func() { _ = web.Serve(listener) })
	files, err := gonet.DialUDP(l.stack, &tcpip.FullAddress{NIC: 1, Port: tftpPort}, nil, ipv4.ProtocolNumber)
	if err != nil {
		l.t.Fatal(err)
	}
	running.Go(func() { l.serveTFTP(files, &running) })
	l.t.Cleanup(func() {
		_ = web.Close()
		listener.Shutdown()
		_ = files.SetReadDeadline(time.Unix(1, 0))
		cancel()
		l.stack.Destroy()
		running.Wait()
	})
}

// fromGuest is the switch's port of the guest.
func (l *lab) fromGuest(frame []byte) {
	l.mu.Lock()
	l.sources[net.HardwareAddr(frame[6:12]).String()]++
	l.mu.Unlock()
	if m := dhcpToServer(frame); m != nil {
		l.answerDHCP(m)
		return
	}
	l.logTFTP(frame)
	for range l.copies() {
		l.inject(frame)
	}
}

// copies returns how often a frame arrives.
func (l *lab) copies() int {
	if !l.lossy {
		return 1
	}
	switch l.frames.Add(1) % 20 {
	case 7:
		return 0
	case 13:
		return 2
	}
	return 1
}

func (l *lab) inject(frame []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	l.card.InjectInbound(0, pkt)
}

// dhcpToServer parses a DHCP message with another codec than the guest's.
func dhcpToServer(frame []byte) *dhcpv4.DHCPv4 {
	if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 17 || binary.BigEndian.Uint16(frame[36:]) != 67 {
		return nil
	}
	m, err := dhcpv4.FromBytes(frame[42:])
	if err != nil {
		return nil
	}
	return m
}

// logTFTP logs requests and errors in the order in which they are sent.
func (l *lab) logTFTP(frame []byte) {
	if len(frame) < 46 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 17 {
		return
	}
	payload := frame[42:]
	switch binary.BigEndian.Uint16(payload) {
	case tftpRead:
		l.log("TFTP %s", strings.Join(tftpFields(payload), " "))
	case tftpError:
		l.log("TFTP error %d", binary.BigEndian.Uint16(payload[2:]))
	}
}

func tftpFields(request []byte) []string {
	return strings.Split(strings.TrimRight(string(request[2:]), "\x00"), "\x00")
}

// programOf names the sender of a DHCP message.
func programOf(m *dhcpv4.DHCPv4) string {
	switch {
	case bytes.Equal(m.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE")):
		return "iPXE"
	case strings.HasPrefix(m.ClassIdentifier(), "PXEClient"):
		return "firmware"
	}
	return "system"
}

func (l *lab) answerDHCP(m *dhcpv4.DHCPv4) {
	program := programOf(m)
	l.log("DHCP %s %s", m.MessageType(), program)
	if !bytes.Equal(m.ClientHWAddr, testMAC) {
		return // not declared
	}
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	file := "ipxe.efi"
	if program == "iPXE" {
		file = testBase + "boot.ipxe"
	}
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(guestAddr.AsSlice()),
		dhcpv4.WithServerIP(serverAddr.AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(serverAddr.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(l.leaseSeconds),
		dhcpv4.WithOption(dhcpv4.OptBootFileName(file)))
	if err != nil {
		l.t.Error(err)
		return
	}
	l.guest.Load().Receive(testNIC, replyFrame(m.ClientHWAddr, m.IsBroadcast(), r.ToBytes()))
}

// replyFrame returns the frame of a server's message: to the address that it assigns,
// or to all if the client asked for it, and always to the client's MAC address.
func replyFrame(to net.HardwareAddr, broadcast bool, payload []byte) []byte {
	frame := make([]byte, 14+20+8+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(serverMAC), DstAddr: tcpip.LinkAddress(to), Type: header.IPv4ProtocolNumber,
	})
	source, destination := tcpip.AddrFrom4(serverAddr.As4()), tcpip.AddrFrom4(guestAddr.As4())
	if broadcast {
		destination = header.IPv4Broadcast
	}
	ip := header.IPv4(frame[14:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: 17, SrcAddr: source, DstAddr: destination})
	ip.SetChecksum(^ip.CalculateChecksum())
	datagram := header.UDP(ip[20:])
	datagram.Encode(&header.UDPFields{SrcPort: 67, DstPort: 68, Length: uint16(len(datagram))})
	copy(datagram[8:], payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, source, destination, uint16(len(datagram)))
	datagram.SetChecksum(^datagram.CalculateChecksum(checksum.Checksum(payload, sum)))
	return frame
}

// serveTFTP answers read requests (RFC 1350, 2347, 7440) until conn is closed.
func (l *lab) serveTFTP(conn *gonet.UDPConn, running *sync.WaitGroup) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			_ = conn.Close()
			return
		}
		fields := tftpFields(buf[:n])
		running.Go(func() { l.sendTFTP(fields, from) })
	}
}

func (l *lab) sendTFTP(fields []string, to net.Addr) {
	conn, err := gonet.DialUDP(l.stack, &tcpip.FullAddress{NIC: 1}, nil, ipv4.ProtocolNumber)
	if err != nil {
		l.t.Error(err)
		return
	}
	defer conn.Close()
	content := map[string][]byte{"ipxe.efi": l.program, ipxeAutoexec: []byte(l.autoexec)}[fields[0]]
	if len(content) == 0 {
		_, _ = conn.WriteTo([]byte("\x00\x05\x00\x01File not found\x00"), to)
		return
	}
	block, window := 512, 1
	oack := []byte{0, 6}
	for i := 2; i+1 < len(fields); i += 2 {
		value := fields[i+1]
		switch fields[i] {
		case "blksize":
			_, _ = fmt.Sscan(value, &block)
		case "windowsize":
			_, _ = fmt.Sscan(value, &window)
		case "tsize":
			value = fmt.Sprint(len(content))
		}
		oack = append(oack, fields[i]+"\x00"+value+"\x00"...)
	}
	reply := make([]byte, 128)
	// await returns the acknowledged block, -1 for an error.
	await := func() int {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		n, _, err := conn.ReadFrom(reply)
		if err != nil || n < 4 || reply[1] == tftpError {
			return -1
		}
		return int(binary.BigEndian.Uint16(reply[2:]))
	}
	_, _ = conn.WriteTo(oack, to)
	last := len(content)/block + 1
	for acked := await(); acked >= 0 && acked < last; acked = await() {
		for n := acked + 1; n <= min(acked+window, last); n++ {
			data := content[(n-1)*block : min(n*block, len(content))]
			_, _ = conn.WriteTo(append([]byte{0, 3, byte(n >> 8), byte(n)}, data...), to)
		}
	}
}

func (l *lab) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /m/token/{file...}", func(w http.ResponseWriter, r *http.Request) {
		file := r.PathValue("file")
		l.log("GET %s", file)
		l.changed(func() { l.heads[file] = r.Header.Clone() })
		switch name, isSeed := strings.CutPrefix(file, "ci/"); {
		case file == "boot.ipxe":
			l.mu.Lock()
			script := l.script
			l.mu.Unlock()
			_, _ = io.WriteString(w, script)
		case file == "plan":
			_ = json.NewEncoder(w).Encode(l.plan)
		case isSeed && l.seed[name] != "":
			_, _ = io.WriteString(w, l.seed[name])
		case file == "image":
			w.Header().Set("ETag", `"`+l.plan.ImageDigest+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(l.files[file]))
		case len(l.files[file]) > 0:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(l.files[file]))
		case file == "ipxe-error":
			l.log("iPXE error at %s", r.URL.Query().Get("step"))
		default:
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("POST /m/token/progress", func(w http.ResponseWriter, r *http.Request) {
		var p installerapi.Progress
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			l.t.Errorf("report: %v", err)
		}
		l.changed(func() {
			if len(l.reports) == 0 || l.reports[len(l.reports)-1].Stage != p.Stage {
				l.trace = append(l.trace, "report "+string(p.Stage))
			}
			l.reports = append(l.reports, p)
			if p.Stage == installerapi.StageDone {
				l.order = []string{testDisk, testNIC}
			}
		})
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /m/token/cloud-init", func(w http.ResponseWriter, r *http.Request) {
		var e struct {
			Name   string
			Type   string `json:"event_type"`
			Result string
			Origin string
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || e.Origin != "cloudinit" {
			l.t.Errorf("event: got %+v, error %v, want one of cloud-init", e, err)
		}
		l.log("%s", strings.TrimSpace("event "+e.Name+" "+e.Type+" "+e.Result))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /m/token/phone-home", func(_ http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			l.t.Error(err)
		}
		l.log("phone-home")
		l.changed(func() { l.phoned = r.PostForm })
	})
	return mux
}

func (l *lab) bootOrder() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

// changed changes the lab's state and wakes await.
func (l *lab) changed(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.news)
	l.news = make(chan struct{})
}

func (l *lab) log(format string, args ...any) {
	l.changed(func() { l.trace = append(l.trace, fmt.Sprintf(format, args...)) })
}

// traced returns what the guest has sent so far.
func (l *lab) traced() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.trace)
}

// await waits until ok, which is called with the lab locked, is true.
func (l *lab) await(what string, ok func() bool) {
	l.t.Helper()
	limit := time.After(patience)
	for {
		l.mu.Lock()
		done, news := ok(), l.news
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-limit:
			l.t.Fatalf("timeout: got the trace\n%s\nand the output\n%s\nwant %s", strings.Join(l.traced(), "\n"), l.serial, what)
		}
	}
}

// awaitTrace waits for a line of the trace.
func (l *lab) awaitTrace(line string) {
	l.t.Helper()
	l.await(line, func() bool { return slices.Contains(l.trace, line) })
}

// awaitOutput waits for a text on the serial port.
func (l *lab) awaitOutput(text string) {
	l.t.Helper()
	l.awaitOutputs(text, 1)
}

// awaitOutputs waits until a text was printed n times.
func (l *lab) awaitOutputs(text string, n int) {
	l.t.Helper()
	for limit := time.Now().Add(patience); strings.Count(l.serial.String(), text) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			l.t.Fatalf("timeout: got the output\n%s\nwant %q %d times", l.serial, text, n)
		}
	}
}

// lastReport returns the installer's last report.
func (l *lab) lastReport() installerapi.Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.reports) == 0 {
		return installerapi.Progress{}
	}
	return l.reports[len(l.reports)-1]
}

// requested returns the resets that the guest requested.
func (l *lab) requested() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.resets)
}

// powerOn runs the machine. The returned function stops it and returns how it ended.
func (l *lab) powerOn(change ...func(*Guest)) (off func() End, ended <-chan End) {
	l.t.Helper()
	g := New(l.config)
	g.pass, g.failPause = time.Millisecond, time.Millisecond
	for _, f := range change {
		f(g)
	}
	l.guest.Store(g)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan End, 1)
	var end End
	done := make(chan struct{})
	go func() {
		end = g.Run(ctx)
		result <- end
		close(done)
	}()
	off = func() End {
		cancel()
		<-done
		return end
	}
	l.t.Cleanup(func() { off() })
	return off, result
}
