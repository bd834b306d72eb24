// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
	"github.com/pxelab/pxelab/internal/netbootapi"
	"github.com/pxelab/pxelab/internal/netbootd/internal/dhcp"
)

// TestMain ignores connections whose request was refused before its end: net/http waits
// half a second before it closes them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// patience bounds every wait; it is much longer than any wait should take.
const patience = 2 * time.Minute

// retransmission is after how long an unanswered DHCP message is sent again.
const retransmission = 4 * time.Second

// harness is a complete netbootd on loopback with a client that watches it.
type harness struct {
	t       *testing.T
	options Options
	server  *Server
	stop    func()

	clientOptions netbootapi.ClientOptions

	client *netbootapi.Client
	mu     sync.Mutex
	state  netbootapi.Observed
	news   chan struct{}
	dhcp   net.Addr
	nat    fakeNAT
	ssh    func(ctx context.Context, a netip.AddrPort) (net.Conn, error)
}

// fakeNAT records its last call.
type fakeNAT struct {
	mu        sync.Mutex
	network   netip.Prefix
	removed   int
	resolvers []netip.Addr
}

func (n *fakeNAT) Ensure(lab netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.network = lab
	return nil
}

func (n *fakeNAT) Remove() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.network = netip.Prefix{}
	n.removed++
	return nil
}

func (n *fakeNAT) Resolvers() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.resolvers
}

func (n *fakeNAT) state() (network netip.Prefix, removed int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.network, n.removed
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	credentials, err := netbootapi.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, news: make(chan struct{}, 1)}
	h.ssh = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no route") }
	h.options = Options{
		StateDir: t.TempDir(), Version: "test", APIAddress: "127.0.0.1:0", Seed: credentials.Server(),
		SetUpLink: func(*netbootapi.Network) (string, error) { return "lo", nil },
		Shield:    func(string) error { return nil }, // the manager of the tests is on the same interface
		NAT:       &h.nat,
		DenyIPv6: func(ctx context.Context, _ string, _ *slog.Logger) error {
			<-ctx.Done()
			return nil
		},
		ListenDHCP: func(string) (dhcp.Conn, dhcp.Prober, error) {
			conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return nil, nil, err
			}
			h.mu.Lock()
			h.dhcp = conn.LocalAddr()
			h.mu.Unlock()
			return dhcp.PacketConn(conn), nil, nil
		},
		Dial: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			h.mu.Lock()
			dial := h.ssh
			h.mu.Unlock()
			return dial(ctx, a)
		},
	}
	client, err := credentials.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	h.start()
	h.options.APIAddress = h.server.APIAddr().String()
	h.clientOptions = netbootapi.ClientOptions{Address: h.options.APIAddress, TLS: client}
	if h.client, err = netbootapi.New(h.clientOptions); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { h.watch(ctx) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
		h.client.Close()
		h.stop()
	})
	return h
}

// start runs the server; stop ends it.
func (h *harness) start() {
	h.t.Helper()
	server, err := New(h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	h.server = server
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("Serve: got error %v, want none", err)
		}
		// The next request must not take a connection that the server has just
		// closed and the client has not noticed.
		h.client.Close()
	})
}

func (h *harness) watch(ctx context.Context) {
	for ctx.Err() == nil {
		h.mu.Lock()
		after := h.state.Position
		h.mu.Unlock()
		_ = h.client.Watch(ctx, after, func(u netbootapi.Update) error {
			h.mu.Lock()
			state := h.state.Clone()
			err := state.Apply(u)
			h.state = state
			h.mu.Unlock()
			if err != nil {
				h.t.Errorf("applying an update: %v", err)
			}
			select {
			case h.news <- struct{}{}:
			default:
			}
			return err
		})
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// await waits until the watched state satisfies ok.
func (h *harness) await(what string, ok func(observed) bool) observed {
	h.t.Helper()
	limit := time.After(patience)
	for {
		h.mu.Lock()
		state := observedOf(h.state)
		h.mu.Unlock()
		// The state of an earlier run of the server does not count.
		if state.StartedAt.Equal(h.server.state.startedAt()) && ok(state) {
			return state
		}
		select {
		case <-h.news:
		case <-limit:
			h.t.Fatalf("timeout: got state %+v, want %s", state, what)
		}
	}
}

func (h *harness) awaitMachine(what string, ok func(netbootapi.MachineState) bool) netbootapi.MachineState {
	h.t.Helper()
	return h.await(what, func(s observed) bool { return ok(s.Machines["uid-1"]) }).Machines["uid-1"]
}

// push puts a setup as a manager does: it uploads what is missing and deletes what is
// not declared.
func (h *harness) push(c *labSetup) {
	h.t.Helper()
	h.whole(func() error { return h.client.PutServer(h.t.Context(), c.Encode()) })
	declared := map[string]bool{}
	for i := range c.Machines {
		declared[c.Machines[i].UID] = true
		h.put(&c.Machines[i])
	}
	state := h.await("the configuration in force", func(s observed) bool { return s.Server == c.digest() })
	for uid := range state.Machines {
		if declared[uid] {
			continue
		}
		if err := h.client.DeleteMachine(h.t.Context(), uid); err != nil {
			h.t.Fatal(err)
		}
	}
	h.await("the declared machines only", func(s observed) bool {
		for uid := range s.Machines {
			if !declared[uid] {
				return false
			}
		}
		return len(s.Machines) == len(declared)
	})
}

// put puts a machine, uploads what is missing and waits until it is in force.
func (h *harness) put(m *netbootapi.Machine) {
	h.t.Helper()
	h.whole(func() error { return h.client.PutMachine(h.t.Context(), m.UID, entryOf(m)) })
	want := entryOf(m)
	h.await("the entry in force", func(s observed) bool {
		got := s.Machines[m.UID]
		return got.Control == want.ControlDigest() && (got.Content == want.ContentDigest() || got.Installing)
	})
}

// whole calls put again after it has uploaded what put reports as missing.
func (h *harness) whole(put func() error) {
	h.t.Helper()
	err := put()
	if missing := (*netbootapi.MissingError)(nil); errors.As(err, &missing) {
		for _, blob := range missing.Blobs {
			h.uploadBlob(blob)
		}
		err = put()
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// uploadBlob uploads one of contents or texts.
func (h *harness) uploadBlob(blob netbootapi.Blob) {
	h.t.Helper()
	text, ok := texts.Load(blob.Digest)
	if !ok {
		for name, content := range contents {
			if blobOf(name) == blob {
				text, ok = string(content), true
			}
		}
	}
	if !ok {
		h.t.Fatalf("%+v is not content of the tests", blob)
	}
	if err := h.client.UploadBlob(h.t.Context(), blob, strings.NewReader(text.(string)), nil); err != nil {
		h.t.Fatal(err)
	}
}

// up pushes c with all content and waits for the services.
func (h *harness) up(c *labSetup) {
	h.t.Helper()
	h.push(c)
	h.upload()
	h.awaitServices()
}

// upload uploads everything that is missing.
func (h *harness) upload() {
	h.t.Helper()
	h.mu.Lock()
	state := h.state.Clone()
	h.mu.Unlock()
	missing := state.State.MissingBlobs
	for _, m := range state.Machines {
		missing = append(missing, m.MissingBlobs...)
	}
	for _, blob := range missing {
		h.uploadBlob(blob)
	}
	h.await("all blobs", func(s observed) bool {
		for _, m := range s.Machines {
			if len(m.MissingBlobs) > 0 {
				return false
			}
		}
		return len(s.MissingBlobs) == 0
	})
}

func (h *harness) awaitServices() {
	h.t.Helper()
	h.await("all services", func(s observed) bool {
		return s.Services[serviceDHCP].Serving && s.Services[serviceTFTP].Serving && s.Services[serviceHTTP].Serving
	})
}

func (h *harness) service(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.State.Services[name].Address
}

func (h *harness) base() string {
	return "http://" + h.service(serviceHTTP) + "/m/" + machineConfig().Token + "/"
}

// seedBase returns the base URL of the installed system.
func (h *harness) seedBase() string {
	return "http://" + h.service(serviceHTTP) + "/m/" + machineConfig().SeedToken + "/"
}

// url returns the URL of one of the machine's files or reports.
func (h *harness) url(path string) string {
	if strings.HasPrefix(path, "ci/") || path == "phone-home" || path == "cloud-init" {
		return h.seedBase() + path
	}
	return h.base() + path
}

// install does what the installer does up to its last report.
func (h *harness) install() {
	h.t.Helper()
	for _, file := range []string{"plan", "image"} {
		if got := h.get(file); got.status != http.StatusOK {
			h.t.Fatalf("%s: got %d %s, want 200", file, got.status, got.body)
		}
	}
	if got := h.post("progress", report("a1", installerapi.StageDone, 1_000_000)); got.status != http.StatusNoContent {
		h.t.Fatalf("last report: got %d %s, want 204", got.status, got.body)
	}
}

// as returns an HTTP client that connects from address.
func as(address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
}

const machineAddress = "127.0.0.11"

type answer struct {
	status int
	body   string
	header http.Header
}

func (h *harness) do(address, method, url, body string, header http.Header) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := as(address).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, string(raw), resp.Header}
}

func (h *harness) get(path string) answer {
	h.t.Helper()
	return h.do(machineAddress, http.MethodGet, h.url(path), "", nil)
}

func (h *harness) post(path, body string) answer {
	h.t.Helper()
	contentType := "application/x-www-form-urlencoded"
	if strings.HasPrefix(body, "{") {
		contentType = "application/json"
	}
	return h.do(machineAddress, http.MethodPost, h.url(path), body, http.Header{"Content-Type": {contentType}})
}

// boot requests a lease as firmware or iPXE and returns the boot file.
func (h *harness) boot(mac string, arch iana.Arch, asIPXE bool) string {
	h.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		h.t.Fatal(err)
	}
	class := "PXEClient"
	if arch == iana.EFI_X86_64_HTTP {
		class = "HTTPClient"
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(hw), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("%s:Arch:%05d:UNDI:003016", class, arch))),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName),
	}
	if asIPXE {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))))
	}
	discover, err := dhcpv4.New(append(options, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))...)
	if err != nil {
		h.t.Fatal(err)
	}
	offer := h.exchange(discover)
	request, err := dhcpv4.NewRequestFromOffer(offer, options...)
	if err != nil {
		h.t.Fatal(err)
	}
	ack := h.exchange(request)
	if ack.MessageType() != dhcpv4.MessageTypeAck {
		h.t.Fatalf("got %s, want an ACK", ack.Summary())
	}
	file := ack.BootFileName
	if file == "" {
		file = ack.BootFileNameOption()
	}
	return strings.TrimRight(file, "\x00")
}

func (h *harness) exchange(request *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	h.t.Helper()
	h.mu.Lock()
	to := h.dhcp
	h.mu.Unlock()
	conn, err := net.Dial("udp4", to.String())
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	n := 0
	// A client sends its message again: a flooded server loses some (RFC 2131,
	// section 4.1).
	for limit := time.Now().Add(patience); n == 0; {
		if _, err := conn.Write(request.ToBytes()); err != nil {
			h.t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(retransmission)); err != nil {
			h.t.Fatal(err)
		}
		if n, err = conn.Read(buf); err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(limit)) {
			h.t.Fatal(err)
		}
	}
	reply, err := dhcpv4.FromBytes(buf[:n])
	if err != nil {
		h.t.Fatal(err)
	}
	return reply
}

// tftp fetches a file by TFTP without options (RFC 1350).
func (h *harness) tftp(address, name string) ([]byte, error) {
	h.t.Helper()
	conn, err := net.ListenPacket("udp4", net.JoinHostPort(address, "0"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	server, err := net.ResolveUDPAddr("udp4", h.service(serviceTFTP))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := conn.WriteTo(append([]byte{0, 1}, name+"\x00octet\x00"...), server); err != nil {
		h.t.Fatal(err)
	}
	var out []byte
	buf := make([]byte, 1024)
	for next := uint16(1); ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		if n < 4 || buf[1] == 5 {
			return nil, fmt.Errorf("TFTP error: %q", buf[:n])
		}
		if buf[1] != 3 || binary.BigEndian.Uint16(buf[2:]) != next {
			continue
		}
		out = append(out, buf[4:n]...)
		if _, err := conn.WriteTo([]byte{0, 4, buf[2], buf[3]}, from); err != nil {
			return nil, err
		}
		if n < 4+512 {
			return out, nil
		}
		next++
	}
}
