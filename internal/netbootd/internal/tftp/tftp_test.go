// SPDX-License-Identifier: Apache-2.0

package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 30 * time.Second

// content is reproducible and has no short period.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

type files map[string][]byte

func (f files) Open(_ context.Context, name string, _ netip.AddrPort) (File, error) {
	switch b, ok := f[name]; {
	case name == "secret":
		return File{}, fmt.Errorf("opening %s: %w", name, fs.ErrPermission)
	case name == "broken":
		return File{}, errors.New("disk on fire at /private/path")
	case !ok:
		return File{}, fs.ErrNotExist
	default:
		return BytesFile(b), nil
	}
}

type recorder struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{}
}

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// wait blocks until an event of the kind arrives and returns the first one.
func (r *recorder) wait(t testing.TB, k Kind) Event {
	t.Helper()
	deadline := time.After(limit)
	for {
		r.mu.Lock()
		for _, e := range r.events {
			if e.Kind == k {
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("got events %v, want one of kind %s", r.kinds(), k)
		}
	}
}

func (r *recorder) kinds() []Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	var k []Kind
	for _, e := range r.events {
		k = append(k, e.Kind)
	}
	return k
}

func serve(t testing.TB, o Options) (*Server, *recorder, context.CancelFunc) {
	t.Helper()
	rec := &recorder{more: make(chan struct{}, 1)}
	o.Events = rec.add
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Serve = %v, want nil", err)
			}
		})
	}
	t.Cleanup(stop)
	return s, rec, stop
}

// client is a TFTP client that can misbehave.
type client struct {
	t    testing.TB
	conn *net.UDPConn
	srv  netip.AddrPort
	tid  netip.AddrPort
	buf  [1 << 16]byte // what receive returned last
}

func dial(t testing.TB, s *Server) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadBuffer(4 << 20)
	return &client{t: t, conn: conn, srv: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Addr().Port())}
}

func rrq(fields ...string) []byte {
	return append([]byte{0, 1}, strings.Join(fields, "\x00")+"\x00"...)
}

func (c *client) request(fields ...string) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(rrq(fields...), c.srv); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (opcode, []byte) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(limit))
	b := c.buf[:]
	n, from, err := c.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		c.t.Fatal(err)
	}
	c.tid = unmap(from)
	return opcode(binary.BigEndian.Uint16(b)), b[2:n]
}

// open requests a file until the server answers, as clients do: a busy host loses
// packets even on the loopback interface, and a fuzz test may take 10 s at most.
func (c *client) open(fields ...string) opcode {
	c.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		c.request(fields...)
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
		n, from, err := c.conn.ReadFromUDPAddrPort(c.buf[:])
		switch {
		case err == nil && n >= 2:
			c.tid = unmap(from)
			return opcode(binary.BigEndian.Uint16(c.buf[:]))
		case !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(deadline):
			c.t.Fatalf("request %q: got %d bytes and error %v, want an answer", fields, n, err)
		}
	}
}

// silent reports whether no packet arrives within 100 ms.
func (c *client) silent() bool {
	_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _, err := c.conn.ReadFromUDPAddrPort(make([]byte, 1<<16))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *client) ack(block uint16) {
	c.t.Helper()
	c.send([]byte{0, 4, byte(block >> 8), byte(block)})
}

// send sends a packet to the port of the transfer.
func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(b, c.tid); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) wantData(block uint16) []byte {
	c.t.Helper()
	op, b := c.receive()
	if op != opData || binary.BigEndian.Uint16(b) != block {
		c.t.Fatalf("got packet %d with block %x, want data %d", op, b[:2], block)
	}
	return b[2:]
}

func (c *client) wantError(code errorCode, text string) {
	c.t.Helper()
	op, b := c.receive()
	if op != opError || errorCode(binary.BigEndian.Uint16(b)) != code || !strings.Contains(string(b[2:]), text) {
		c.t.Fatalf("got packet %d %q, want error %d %q", op, b, code, text)
	}
}

// fetch reads a whole file with a window, optionally losing packets.
func (c *client) fetch(lose func() bool, blockSize, window int, name string) []byte {
	c.t.Helper()
	c.request(name, "octet", "blksize", fmt.Sprint(blockSize), "windowsize", fmt.Sprint(window), "tsize", "0")
	if op, b := c.receive(); op != opOACK {
		c.t.Fatalf("got packet %d %q, want options", op, b)
	}
	c.ack(0)
	var got []byte
	var have uint16
	inWindow := 0
	for {
		op, b := c.receive()
		if op == opOACK {
			c.ack(0)
			continue
		}
		if op != opData {
			c.t.Fatalf("got packet %d %q, want data", op, b)
		}
		if lose() {
			continue
		}
		block := binary.BigEndian.Uint16(b)
		if block != have+1 {
			c.ack(have)
			inWindow = 0
			continue
		}
		have = block
		got = append(got, b[2:]...)
		inWindow++
		last := len(b)-2 < blockSize
		if last || inWindow == window {
			c.ack(have)
			inWindow = 0
		}
		if last {
			return got
		}
	}
}

func never() bool { return false }

func TestPlainTransfer(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 1024, 5000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			want := content(size)
			s, rec, _ := serve(t, Options{Handler: files{"f": want}})
			c := dial(t, s)
			c.request("f", "octet")
			got := []byte{}
			for block := uint16(1); ; block++ {
				b := c.wantData(block)
				got = append(got, b...)
				c.ack(block)
				if len(b) < 512 {
					break
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d other bytes, want the %d bytes of the file", len(got), len(want))
			}
			e := rec.wait(t, Done)
			if e.Name != "f" {
				t.Errorf("got event of file %q, want \"f\"", e.Name)
			}
			if e.Bytes != int64(size) {
				t.Errorf("got event with %d bytes, want %d", e.Bytes, size)
			}
			if e.Size != int64(size) {
				t.Errorf("got event with size %d, want %d", e.Size, size)
			}
			if diff := cmp.Diff([]Kind{Start, Done}, rec.kinds()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	s, _, _ := serve(t, Options{Handler: files{"f": content(100)}, MaxBlockSize: 1400, MaxWindow: 16})
	tests := []struct {
		name, ask, want string
	}{
		{"all", "blksize 1024 timeout 3 tsize 0 windowsize 4", "blksize 1024 timeout 3 tsize 100 windowsize 4"},
		{"capped", "blksize 65464 windowsize 65535", "blksize 1400 windowsize 16"},
		{"any case", "BLKSIZE 600 TSize 0", "blksize 600 tsize 100"},
		{"above the largest", "blksize 70000", "blksize 1400"},
		{"some unknown", "multicast 1 blksize 512 foo bar", "blksize 512"},
		{"out of range left out", "blksize 7 timeout 0 windowsize 0 tsize 0", "tsize 100"},
		{"invalid numbers left out", "blksize x timeout -1 windowsize 99999999999 tsize 0", "tsize 100"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, s)
			c.request(append([]string{"f", "octet"}, strings.Fields(tt.ask)...)...)
			op, b := c.receive()
			got := strings.ReplaceAll(strings.TrimSuffix(string(b), "\x00"), "\x00", " ")
			if op != opOACK {
				t.Errorf("got packet %d, want options (%d)", op, opOACK)
			}
			if got != tt.want {
				t.Errorf("got options %q, want %q", got, tt.want)
			}
			c.send((&remoteError{codeOptionDenied, "enough"}).packet())
		})
	}
	t.Run("none supported", func(t *testing.T) {
		c := dial(t, s)
		c.request("f", "octet", "foo", "bar")
		c.wantData(1)
		c.ack(1)
	})
}

func TestRefusals(t *testing.T) {
	s, rec, _ := serve(t, Options{Handler: files{"f": nil}})
	tests := []struct {
		name   string
		packet []byte
		code   errorCode
		text   string
	}{
		{"missing", rrq("nothing", "octet"), codeNotFound, "not found"},
		{"forbidden", rrq("secret", "octet"), codeAccess, "denied"},
		{"handler's error text is not sent", rrq("broken", "octet"), codeUndefined, "cannot open"},
		{"write", append([]byte{0, 2}, "f\x00octet\x00"...), codeAccess, "read-only"},
		{"netascii", rrq("f", "netascii"), codeIllegal, "octet"},
		{"mail", rrq("f", "mail"), codeIllegal, "octet"},
		{"no mode", rrq("f"), codeIllegal, "malformed"},
		{"empty", []byte{0, 1}, codeIllegal, "malformed"},
		{"no name", rrq("", "octet"), codeAccess, "invalid"},
		{"the root", rrq("..", "octet"), codeAccess, "invalid"},
		{"control characters", rrq("\nb", "octet"), codeAccess, "invalid"},
		{"invalid UTF-8", rrq("\xff", "octet"), codeAccess, "invalid"},
		{"too many options", rrq(append([]string{"f", "octet"}, strings.Fields(strings.Repeat("a 1 ", 50))...)...), codeIllegal, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, s)
			c.sendRequest(tt.packet)
			c.wantError(tt.code, tt.text)
		})
	}
	rec.wait(t, Abort)
	t.Run("other packets are ignored", func(t *testing.T) {
		c := dial(t, s)
		for _, b := range [][]byte{{}, {0}, {0, 3, 0, 1}, {0, 4, 0, 0}, {0, 5, 0, 0, 'x', 0}, {0, 6}, {9, 9}} {
			c.sendRequest(b)
		}
		if !c.silent() {
			t.Error("other packets than requests: got an answer, want none")
		}
	})
}

// sendRequest sends a packet to the listening port.
func (c *client) sendRequest(b []byte) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(b, c.srv); err != nil {
		c.t.Fatal(err)
	}
}

func TestCleanName(t *testing.T) {
	tests := map[string]string{
		"ipxe.efi":              "ipxe.efi",
		"/boot/ipxe.efi":        "boot/ipxe.efi",
		"../../../etc/passwd":   "etc/passwd",
		`..\..\boot\bootx64`:    "boot/bootx64",
		"a/../../b/./c//d":      "b/c/d",
		"%2e%2e/x":              "%2e%2e/x",
		"/":                     "",
		"":                      "",
		"a/..":                  "",
		"with space/and-dash_1": "with space/and-dash_1",
		"ipxe.efi\xff":          "ipxe.efi",
		"ipxe.efi\xaf\x04\xb0":  "ipxe.efi",
		"ipxe.efi\x1b[2J":       "ipxe.efi",
		"\xff":                  "",
		"ä/ipxe.efi":            "",
	}
	for in, want := range tests {
		got, err := cleanName(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("cleanName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestFirmwareProbe behaves like EDK2: it requests the size, aborts, and
// requests the file.
func TestFirmwareProbe(t *testing.T) {
	want := content(3000)
	for _, code := range []errorCode{codeOptionDenied, codeUndefined} {
		s, rec, _ := serve(t, Options{Handler: files{"f": want}})
		c := dial(t, s)
		c.request("f", "octet", "tsize", "0", "blksize", "1468")
		if op, _ := c.receive(); op != opOACK {
			t.Fatalf("got packet %d, want options", op)
		}
		c.send((&remoteError{code, "User aborted the transfer"}).packet())
		e := rec.wait(t, Probe)
		if e.Size != 3000 {
			t.Errorf("got event with size %d, want 3000", e.Size)
		}
		if e.Err != "" {
			t.Errorf("got event with error %q, want none", e.Err)
		}
		// From the same port, as some firmware does.
		if got := c.fetch(never, 1468, 1, "f"); !bytes.Equal(got, want) {
			t.Errorf("got %d other bytes, want the %d bytes of the file", len(got), len(want))
		}
		rec.wait(t, Done)
		if diff := cmp.Diff([]Kind{Probe, Start, Done}, rec.kinds()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}
}

func TestBlockNumberRollsOver(t *testing.T) {
	want := content(8*70000 + 3)
	s, rec, _ := serve(t, Options{Handler: files{"f": want}})
	for _, window := range []int{1, 7} {
		if got := dial(t, s).fetch(never, 8, window, "f"); !bytes.Equal(got, want) {
			t.Errorf("window %d: got %d other bytes, want the %d bytes of the file", window, len(got), len(want))
		}
	}
	rec.wait(t, Done)
}

func TestLostPackets(t *testing.T) {
	want := content(60000)
	s, rec, _ := serve(t, Options{Handler: files{"f": want}, Timeout: 20 * time.Millisecond, Retries: 50})
	for _, window := range []int{1, 4, 16} {
		r := rand.New(rand.NewPCG(1, uint64(window)))
		lose := func() bool { return r.IntN(10) == 0 }
		if got := dial(t, s).fetch(lose, 512, window, "f"); !bytes.Equal(got, want) {
			t.Errorf("window %d: got %d other bytes, want the %d bytes of the file", window, len(got), len(want))
		}
	}
	rec.wait(t, Done)
}

func TestRepeatedAckDoesNotResend(t *testing.T) {
	s, _, _ := serve(t, Options{Handler: files{"f": content(5000)}, Timeout: limit})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	c.ack(1)
	c.wantData(2)
	for range 10 {
		c.ack(1)
	}
	c.ack(7) // never sent
	if !c.silent() {
		t.Fatal("repeated acknowledgement: got an answer, want none")
	}
	c.ack(2)
	c.wantData(3)
}

func TestRepeatedRequestStartsOneTransfer(t *testing.T) {
	s, _, _ := serve(t, Options{Handler: files{"f": content(5000), "g": content(10)}, Timeout: limit})
	c := dial(t, s)
	for range 5 {
		c.request("f", "octet")
	}
	c.wantData(1)
	if !c.silent() {
		t.Fatal("repeated request: got an answer, want none")
	}
	// Another request from the same port replaces the transfer, without an error
	// that would abort the new one.
	c.request("g", "octet")
	if got := c.wantData(1); len(got) != 10 {
		t.Errorf("got %d bytes, want the 10 bytes of the other file", len(got))
	}
	c.ack(1)
	if !c.silent() {
		t.Error("after the last block: got a packet, want none")
	}
}

func TestOtherSendersAndInvalidPacketsAreIgnored(t *testing.T) {
	s, rec, _ := serve(t, Options{Handler: files{"f": content(1000)}, Timeout: limit})
	c, other := dial(t, s), dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	other.tid = c.tid
	other.send((&remoteError{codeUndefined, "die"}).packet())
	c.send([]byte{0, 9, 9})    // unknown opcode
	c.send([]byte{0})          // too short
	c.send([]byte{0, 3, 0, 1}) // data from a client
	c.ack(1)
	c.wantData(2)
	c.ack(2)
	rec.wait(t, Done)
}

func TestGivesUpWithoutAcknowledgement(t *testing.T) {
	s, rec, _ := serve(t, Options{Handler: files{"f": content(1000)}, Timeout: time.Millisecond, Retries: 2})
	c := dial(t, s)
	c.request("f", "octet")
	for range 3 {
		c.wantData(1)
	}
	c.wantError(codeUndefined, "no acknowledgement")
	const want = "no acknowledgement after block 0, sent 3 times"
	if e := rec.wait(t, Abort); !strings.Contains(e.Err, want) {
		t.Errorf("got event %+v, want error %q", e, want)
	}
}

func TestClientClosesPort(t *testing.T) {
	s, rec, _ := serve(t, Options{Handler: files{"f": content(2000)}, Timeout: 10 * time.Millisecond, Retries: 50})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	c.ack(1)
	_ = c.conn.Close()
	// If block 2 was sent before the port closed, only its repetition after the
	// timeout gets the ICMP error.
	if e := rec.wait(t, Abort); !strings.Contains(e.Err, errGone.Error()) {
		t.Errorf("got event %+v, want error %q", e, errGone)
	}
}

// A transfer of which only the last acknowledgement is lost is complete.
func TestLastAcknowledgementLost(t *testing.T) {
	for name, leave := range map[string]func(*client){
		"silent": func(*client) {},
		"gone":   func(c *client) { _ = c.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s, rec, _ := serve(t, Options{Handler: files{"f": content(1000)}, Timeout: 10 * time.Millisecond, Retries: 2})
			c := dial(t, s)
			c.request("f", "octet")
			c.wantData(1)
			c.ack(1)
			c.wantData(2)
			leave(c)
			rec.wait(t, Done)
		})
	}
}

func TestClientAborts(t *testing.T) {
	s, rec, _ := serve(t, Options{Handler: files{"f": content(1000)}, Timeout: limit})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	c.send((&remoteError{3, "disk full\x1b[2J"}).packet())
	const want = "client sent error 3: disk full?[2J"
	if e := rec.wait(t, Abort); e.Err != want {
		t.Errorf("got event %+v, want error %q", e, want)
	}
}

func TestLimitsConcurrentTransfers(t *testing.T) {
	s, _, _ := serve(t, Options{Handler: files{"f": content(1000)}, MaxTransfers: 3, MaxPerClient: 2, Timeout: limit})
	first := dial(t, s)
	for _, c := range []*client{first, dial(t, s)} {
		c.request("f", "octet")
		c.wantData(1)
	}
	c := dial(t, s)
	c.request("f", "octet")
	c.wantError(codeUndefined, "from this address")
	// When one transfer ends, another is admitted.
	first.ack(1)
	first.wantData(2)
	first.ack(2)
	eventually(t, func() bool {
		c.request("f", "octet")
		op, _ := c.receive()
		return op == opData
	})
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: got a condition that is false, want true", limit)
		}
	}
}

type shrinking struct{}

func (shrinking) ReadAt(b []byte, off int64) (int, error) {
	if off >= 512 {
		return 0, errors.New("gone")
	}
	return len(b), nil
}

func TestFileReadFails(t *testing.T) {
	closed := make(chan struct{})
	h := HandlerFunc(func(context.Context, string, netip.AddrPort) (File, error) {
		return File{ReaderAt: shrinking{}, Size: 2000, Close: func() error { close(closed); return nil }}, nil
	})
	s, rec, _ := serve(t, Options{Handler: h, Timeout: limit})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	c.ack(1)
	c.wantError(codeUndefined, "cannot read")
	const want = "offset 512 of 2000"
	if e := rec.wait(t, Abort); !strings.Contains(e.Err, want) {
		t.Errorf("got event %+v, want error %q", e, want)
	}
	<-closed
}

func TestShutdownEndsTransfers(t *testing.T) {
	s, rec, stop := serve(t, Options{Handler: files{"f": content(1000)}, Timeout: limit})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	stop()
	c.wantError(codeUndefined, "shutting down")
	rec.wait(t, Abort)
	again, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(s.Addr()))
	if err != nil {
		t.Fatalf("listening on the port of a stopped server: got error %v, want none", err)
	}
	_ = again.Close()
}

func TestRepliesFromDestinationAddress(t *testing.T) {
	s, _, _ := serve(t, Options{Addr: ":0", Handler: files{"f": nil}})
	c := dial(t, s)
	c.request("f", "octet")
	c.wantData(1)
	if got, want := c.tid.Addr(), netip.MustParseAddr("127.0.0.1"); got != want {
		t.Errorf("got a reply from %s, want %s", got, want)
	}
	c.ack(1)
}

func TestNewRefusesInvalidOptions(t *testing.T) {
	if _, err := New(Options{Addr: "127.0.0.1:0"}); err == nil {
		t.Error("without a handler: got no error, want one")
	}
	if _, err := New(Options{Addr: "nonsense", Handler: files{}}); err == nil {
		t.Error("with an invalid address: got no error, want one")
	}
	s, _, _ := serve(t, Options{Handler: files{}})
	if _, err := New(Options{Addr: s.Addr().String(), Handler: files{}}); err == nil {
		t.Error("with a port in use: got no error, want one")
	}
}

// TestCurl fetches files with an independent client.
func TestCurl(t *testing.T) {
	want := content(3_000_000)
	s, rec, _ := serve(t, Options{Handler: files{"dir/f": want}})
	for _, args := range [][]string{nil, {"--tftp-blksize", "1428"}, {"--tftp-blksize", "65464"}, {"--tftp-no-options"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
			defer cancel()
			args = append([]string{"--silent", "--show-error", "--output", out}, args...)
			cmd := exec.CommandContext(ctx, "curl", append(args, "tftp://"+s.Addr().String()+"/dir/f")...)
			if b, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("running curl (Debian: package curl): %v\n%s", err, b)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d other bytes, want the %d bytes of the file", len(got), len(want))
			}
		})
	}
	rec.wait(t, Done)
	const exitNotFound = 68
	err := exec.CommandContext(t.Context(), "curl", "--silent", "tftp://"+s.Addr().String()+"/nothing").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitNotFound {
		t.Errorf("curl of a missing file: got %v, want exit status %d", err, exitNotFound)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(rrq("f", "octet"))
	f.Add(rrq("boot/ipxe.efi", "octet", "tsize", "0", "blksize", "1468"))
	f.Add(rrq(`..\..\x`, "OCTET", "windowsize", "16", "timeout", "3"))
	f.Add([]byte{0, 2, 'f', 0, 'o', 0})
	f.Add([]byte{0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if !fs.ValidPath(r.name) || r.name == "." {
			t.Errorf("got name %q, want a clean one", r.name)
		}
		if r.blockSize != 0 && (r.blockSize < minBlockSize || r.blockSize > maxBlockSize) {
			t.Errorf("got block size %d, want 0 or %d to %d", r.blockSize, minBlockSize, maxBlockSize)
		}
		if r.window < 0 || r.window > 65535 {
			t.Errorf("got window %d, want 0 to 65535", r.window)
		}
		if r.timeout < 0 || r.timeout > 255*time.Second {
			t.Errorf("got timeout %s, want 0 to 255s", r.timeout)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte{0, 4, 0, 1})
	f.Add([]byte{0, 5, 0, 8, 'n', 'o', 0})
	f.Add([]byte{0, 5, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, remote, ok := parseReply(b)
		if remote != nil && (!ok || len(remote.text) > 3*maxErrorText) {
			t.Errorf("got error %v with ok %v, want ok and at most %d bytes of text", remote, ok, 3*maxErrorText)
		}
	})
}

// FuzzSession sends arbitrary packets to a running transfer; the server must
// continue to answer requests.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 4, 0, 1, 0, 4, 0, 2})
	f.Add([]byte{0, 4, 255, 255, 0, 5, 0, 0})
	s, _, _ := serve(f, Options{Handler: files{"f": content(5000)}, Timeout: 10 * time.Millisecond, Retries: 1, MaxPerClient: 256})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := dial(t, s)
		if op := c.open("f", "octet", "windowsize", "4"); op != opOACK {
			t.Fatalf("got packet %d, want options", op)
		}
		for len(b) > 0 {
			n := min(4, len(b))
			c.send(b[:n])
			b = b[n:]
		}
		c.send((&remoteError{codeUndefined, "done"}).packet())
	})
}

func BenchmarkWindow(b *testing.B) {
	want := content(8 << 20)
	s, _, _ := serve(b, Options{Handler: files{"f": want}})
	rate := map[int]float64{}
	for _, window := range []int{1, 16} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			b.SetBytes(int64(len(want)))
			start := time.Now()
			for b.Loop() {
				if got := dial(b, s).fetch(never, 1428, window, "f"); len(got) != len(want) {
					b.Fatalf("got %d bytes, want %d", len(got), len(want))
				}
			}
			rate[window] = float64(b.N) / time.Since(start).Seconds()
			if window == 16 && rate[1] > 0 {
				b.ReportMetric(rate[16]/rate[1], "ratio")
			}
		})
	}
}
