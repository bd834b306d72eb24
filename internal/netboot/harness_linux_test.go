// SPDX-License-Identifier: Apache-2.0

package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"go.uber.org/goleak"

	"github.com/pxelab/pxelab/internal/agent"
	"github.com/pxelab/pxelab/internal/dhcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; what is waited for comes much earlier.
const patience = 2 * time.Minute

// The lab of the tests is the loopback network, all of whose addresses are
// this machine's: every machine really has its own.
var labAddress = netip.MustParsePrefix("127.0.0.1/8")

func contentOf(name string, size int) []byte {
	return bytes.Repeat([]byte(name+"\n"), size/(len(name)+1)+1)[:size]
}

var contents = map[string][]byte{
	"program": contentOf("program", 5000), "kernel": contentOf("kernel", 100_001), "initrd": contentOf("initrd", 300_003),
	"overlay": contentOf("overlay", 40_000), "image": contentOf("image", 1_000_000),
}

func blobOf(name string) agent.Blob {
	sum := sha256.Sum256(contents[name])
	return agent.Blob{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(contents[name]))}
}

func labConfig() *agent.Config {
	return &agent.Config{
		Network: agent.Network{
			MAC: "52:54:00:00:00:02", Address: labAddress,
			RangeStart: netip.MustParseAddr("127.1.0.1"), RangeEnd: netip.MustParseAddr("127.1.0.9"), LeaseSeconds: 600, MTU: 9000,
			DNS: []netip.Addr{netip.MustParseAddr("127.9.9.9")},
		},
		Programs: []agent.Program{{Architecture: "x86_64", Name: "ipxe.efi", Blob: blobOf("program")}},
		Machines: []agent.Machine{machineConfig()},
	}
}

func machineConfig() agent.Machine {
	return agent.Machine{
		UID: "uid-1", Name: "target-1", Hostname: "target-1", MAC: "52:54:00:00:01:01", Address: netip.MustParseAddr("127.0.0.11"),
		Architecture: "x86_64", Boot: agent.BootInstall, Attempt: "a1", InstanceID: "target-1-a1", Token: "secret-token-0123456789",
		PowerOn: "p1", Kernel: blobOf("kernel"), Initrd: blobOf("initrd"), Overlay: blobOf("overlay"), Image: blobOf("image"), ImagePin: blobOf("image").Digest, ProfileDigest: "sha256:profile",
		KernelArgs: []string{"quiet"}, SSHUser: "lab", SSHAuthorizedKeys: []string{"ssh-ed25519 AAAA user"},
		UserDataTemplate: "#cloud-config\nhostname: {{ .Hostname }}\n",
	}
}

// harness is a whole netbootd on loopback, and a client that watches it.
type harness struct {
	t       *testing.T
	options Options
	server  *Server
	stop    func()

	client *agent.Client
	mu     sync.Mutex
	state  agent.State
	news   chan struct{}
	dhcp   net.Addr
	nat    fakeNAT
	ssh    func(ctx context.Context, a netip.AddrPort) (net.Conn, error)
}

// fakeNAT remembers what it was told last.
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
	n.network, n.removed = netip.Prefix{}, n.removed+1
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
	credentials, err := agent.NewCredentials(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, news: make(chan struct{}, 1)}
	h.ssh = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no route") }
	h.options = Options{
		StateDir: t.TempDir(), Version: "test", AgentAddress: "127.0.0.1:0", Seed: credentials.Server(),
		SetUpLink: func(*agent.Network) (string, error) { return "lo", nil },
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
	h.options.AgentAddress = h.server.AgentAddr().String()
	if h.client, err = agent.New(agent.ClientOptions{Address: h.options.AgentAddress, TLS: client}); err != nil {
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
			h.t.Errorf("Serve: %v", err)
		}
	})
}

func (h *harness) watch(ctx context.Context) {
	for ctx.Err() == nil {
		_ = h.client.Watch(ctx, func(s agent.State) {
			h.mu.Lock()
			h.state = s
			h.mu.Unlock()
			select {
			case h.news <- struct{}{}:
			default:
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// await waits until the watched state satisfies ok.
func (h *harness) await(what string, ok func(agent.State) bool) agent.State {
	h.t.Helper()
	limit := time.After(patience)
	for {
		h.mu.Lock()
		state := h.state
		h.mu.Unlock()
		// What an earlier run of the server said does not count.
		if state.StartedAt.Equal(h.server.keeper.startedAt()) && ok(state) {
			return state
		}
		select {
		case <-h.news:
		case <-limit:
			h.t.Fatalf("waited in vain for %s; state is %+v", what, state)
		}
	}
}

func (h *harness) awaitMachine(what string, ok func(agent.MachineState) bool) agent.MachineState {
	h.t.Helper()
	return h.await(what, func(s agent.State) bool { return ok(s.Machines["uid-1"]) }).Machines["uid-1"]
}

func (h *harness) push(c *agent.Config) {
	h.t.Helper()
	digest, err := h.client.PushConfig(h.t.Context(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	h.await("the configuration in force", func(s agent.State) bool { return s.ConfigDigest == digest })
}

// up pushes config, uploads what is missing and waits for the services.
func (h *harness) up(c *agent.Config) {
	h.t.Helper()
	h.push(c)
	h.upload()
	h.awaitServices()
}

func (h *harness) upload() {
	h.t.Helper()
	for name, content := range contents {
		err := h.client.UploadBlob(h.t.Context(), blobOf(name), bytes.NewReader(content), nil)
		if err != nil && !errors.Is(err, agent.ErrUnknownBlob) {
			h.t.Fatal(err)
		}
	}
	h.await("all blobs", func(s agent.State) bool { return len(s.MissingBlobs) == 0 })
}

func (h *harness) awaitServices() {
	h.t.Helper()
	h.await("all services", func(s agent.State) bool {
		return s.Services[serviceDHCP].Serving && s.Services[serviceTFTP].Serving && s.Services[serviceHTTP].Serving
	})
}

func (h *harness) service(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Services[name].Address
}

func (h *harness) base() string {
	return "http://" + h.service(serviceHTTP) + "/m/" + machineConfig().Token + "/"
}

// as is an HTTP client with the machine's address.
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
	return h.do(machineAddress, http.MethodGet, h.base()+path, "", nil)
}

func (h *harness) post(path, body string) answer {
	h.t.Helper()
	return h.do(machineAddress, http.MethodPost, h.base()+path, body,
		http.Header{"Content-Type": {map[bool]string{true: "application/json", false: "application/x-www-form-urlencoded"}[strings.HasPrefix(body, "{")]}})
}

// boot goes through DHCP as firmware or iPXE and returns the boot file.
func (h *harness) boot(mac string, arch iana.Arch, asIPXE bool) string {
	h.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		h.t.Fatal(err)
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(hw), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", arch))),
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
		h.t.Fatalf("no ACK: %s", ack.Summary())
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
	if _, err := conn.Write(request.ToBytes()); err != nil {
		h.t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		h.t.Fatal(err)
	}
	reply, err := dhcpv4.FromBytes(buf[:n])
	if err != nil {
		h.t.Fatal(err)
	}
	return reply
}

// tftp fetches a file by plain RFC 1350.
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
