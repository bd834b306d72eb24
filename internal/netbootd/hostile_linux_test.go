// SPDX-License-Identifier: Apache-2.0

package netbootd

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// memoryLimit bounds the memory of netbootd, whatever guests do. The test process
// with its clients must stay within it too.
const memoryLimit = MemoryLimit + MemoryLimit/2

// memoryHeld returns the memory that the Go runtime holds: heap and stacks with
// their free parts, and the runtime's own. It excludes the race detector's.
func memoryHeld() uint64 {
	held := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(held)
	return held[0].Value.Uint64() - held[1].Value.Uint64()
}

// watchMemory samples memory use until the test ends or the returned function is
// called, which returns the maximum.
func watchMemory(t *testing.T) (most func() uint64) {
	peak, end, done := memoryHeld(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ended := false; !ended; {
			select {
			case <-tick.C:
			case <-end:
				ended = true
			}
			peak = max(peak, memoryHeld())
		}
	}()
	most = sync.OnceValue(func() uint64 {
		close(end)
		<-done
		return peak
	})
	t.Cleanup(func() { most() })
	return most
}

// open connects from an address of the loopback network and sends text.
func (h *harness) open(from, text string) net.Conn {
	h.t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(h.t.Context(), "tcp", h.service(serviceHTTP))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	// A refused connection may already be closed.
	_, _ = io.WriteString(conn, text)
	return conn
}

// packets sends n packets to an address.
func (h *harness) packets(to net.Addr, n int, packet func(i int) []byte) {
	h.t.Helper()
	conn, err := net.Dial("udp4", to.String())
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	for i := range n {
		_, _ = conn.Write(packet(i)) // the kernel may drop some, as a network does
	}
}

// anotherMachine returns a machine like machineConfig's with another identity.
func anotherMachine(n byte) netbootapi.Machine {
	m := machineConfig()
	m.UID = fmt.Sprintf("other-%d", n)
	m.Name = fmt.Sprintf("other-%d", n)
	m.Hostname = fmt.Sprintf("other-%d", n)
	m.MAC = fmt.Sprintf("52:54:00:00:02:%02x", n)
	m.Address = netip.AddrFrom4([4]byte{127, 0, 1, n})
	m.Token = fmt.Sprintf("other-token-0123456789-%d", n)
	m.SeedToken = fmt.Sprintf("other-seed-01234567890-%d", n)
	return m
}

// Hostile guests attack all services at once, from their own and from forged
// addresses. The server must stay within its memory and serve the honest machine.
func TestHostileGuestsDoNotBlockOthers(t *testing.T) {
	h := newHarness(t)
	config := labConfig()
	honest := anotherMachine(1)
	config.Machines = append(config.Machines, honest)
	var hostile []string
	for n := range byte(12) {
		m := anotherMachine(2 + n)
		config.Machines = append(config.Machines, m)
		hostile = append(hostile, m.Address.String())
	}
	h.up(config)
	// As cmd/netbootd does. Memory that other tests used is released first.
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(MemoryLimit))
	debug.FreeOSMemory()
	before, mostMemory := memoryHeld(), watchMemory(t)

	// HTTP: slow and endless headers, endless bodies with a stolen token,
	// responses that the client does not read.
	path := strings.TrimPrefix(h.base(), "http://"+h.service(serviceHTTP))
	attack := func(from string, i int) {
		switch i % 4 {
		case 0:
			h.open(from, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		case 1:
			h.open(from, "GET / HTTP/1.1\r\nHost: x\r\nX-Endless: "+strings.Repeat("x", 32<<10))
		case 2:
			h.open(from, "POST "+path+"progress HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"+strings.Repeat("{", 32<<10))
		case 3:
			h.open(from, "GET /"+strings.Repeat("../", 2000)+" HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	for i := range 512 {
		attack(fmt.Sprintf("127.3.0.%d", 1+i/8), i)
	}
	for _, from := range hostile {
		for i := range maxConnsPerPeer {
			attack(from, i)
		}
	}
	for range maxConnsPerPeer / 2 {
		h.open(machineAddress, "GET "+path+"image HTTP/1.1\r\nHost: x\r\n\r\n")
		h.open(machineAddress, "POST "+path+"phone-home HTTP/1.1\r\nHost: x\r\n"+
			"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99999999\r\n\r\n"+strings.Repeat("a=b&", 8<<10))
	}
	h.await("a refused connection", func(s observed) bool { return s.Refused["HTTPTooManyConnections"] > 0 })
	// The honest machine can still connect.
	url := "http://" + h.service(serviceHTTP) + "/m/" + honest.Token + "/kernel"
	got := h.do(honest.Address.String(), http.MethodGet, url, "", nil)
	if got.status != http.StatusOK {
		t.Errorf("kernel: got status %d, want 200", got.status)
	}
	if want := string(contents["kernel"]); got.body != want {
		t.Errorf("kernel: got %d bytes, want the %d bytes of the file", len(got.body), len(want))
	}

	// TFTP: malformed, oversized and forbidden requests.
	tftpAddr, err := net.ResolveUDPAddr("udp4", h.service(serviceTFTP))
	if err != nil {
		t.Fatal(err)
	}
	h.packets(tftpAddr, 5000, func(i int) []byte {
		switch i % 4 {
		case 0:
			return []byte("\x00\x01ipxe.efi\x00octet\x00blksize\x0065464\x00windowsize\x0065535\x00timeout\x00255\x00")
		case 1:
			return append([]byte("\x00\x01"), strings.Repeat("x", 4000)...)
		case 2:
			return []byte("\x00\x02/etc/passwd\x00octet\x00")
		}
		return []byte("\x00\x01../../../../etc/netbootd/server.key\x00octet\x00")
	})

	// DHCP: messages of thousands of clients, whole and truncated.
	h.mu.Lock()
	dhcpAddr := h.dhcp
	h.mu.Unlock()
	h.packets(dhcpAddr, 10_000, func(i int) []byte {
		mac := net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")))
		if err != nil {
			t.Fatal(err)
		}
		if b := m.ToBytes(); i%3 > 0 {
			return b
		}
		return m.ToBytes()[:i%300]
	})

	if err := h.server.check(t.Context()); err != nil {
		t.Errorf("health check: got error %v, want none", err)
	}
	// DHCP and TFTP keep serving all machines.
	if file := h.boot(honest.MAC, iana.EFI_X86_64, false); file != "ipxe.efi" {
		t.Errorf("got boot file %q, want ipxe.efi", file)
	}
	if got, err := h.tftp(honest.Address.String(), "ipxe.efi"); err != nil || len(got) != len(contents["program"]) {
		t.Errorf("program: got %d bytes, error %v, want %d bytes", len(got), err, len(contents["program"]))
	}
	most := mostMemory()
	t.Logf("at most %.1f MB held, %.1f MB before", float64(most)/(1<<20), float64(before)/(1<<20))
	if most >= memoryLimit {
		t.Errorf("held %d bytes, want less than %d", most, memoryLimit)
	}
	state, _ := h.server.state.observe()
	if n := len(state.Unknown); n > maxUnknown {
		t.Errorf("got %d unknown clients, want at most %d", n, maxUnknown)
	}
	if n := len(state.Leases); n > 10 {
		t.Errorf("got %d leases, want at most 10", n)
	}
}

func TestPathTraversalIsNotFound(t *testing.T) {
	h := newHarness(t)
	h.up(labConfig())
	host := h.service(serviceHTTP)
	token := machineConfig().Token
	for _, target := range []string{
		"/../server.json", "/m/../server.json", "/m/" + token + "/../../server.json", "/m/" + token + "/%2e%2e/%2e%2e/server.json",
		"/m/" + token + "/ci/..%2f..%2fserver.json", "//server.json", "/m//boot.ipxe", "/m/%00/boot.ipxe", "/program/..%2fserver.json",
		"/program/%2e%2e", "/m/" + token, "/m/" + token + "/", "/m/" + token + "/ci", "/.", "/alive/",
	} {
		t.Run(target, func(t *testing.T) {
			before := refusals(h)
			conn := h.open("127.0.0.12", "GET "+target+" HTTP/1.0\r\n\r\n")
			raw, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			text := string(raw)
			if !strings.HasPrefix(text, "HTTP/1.0 404 ") {
				t.Errorf("got %q, want status 404", text)
			}
			if strings.Contains(text, "token") {
				t.Errorf("got %q, want a response without the token", text)
			}
			if refusals(h) == before {
				t.Errorf("got %d refusals as before, want this one to be counted", before)
			}
		})
	}
	if got := h.do("127.0.0.12", http.MethodGet, "http://"+host+"/m/"+token+"/boot.ipxe", "", nil); got.status != http.StatusNotFound {
		t.Errorf("another address: got status %d, want 404", got.status)
	}
}

func refusals(h *harness) (n int64) {
	state, _ := h.server.state.observe()
	for _, count := range state.Refused {
		n += count
	}
	return n
}
