// SPDX-License-Identifier: Apache-2.0

package timeserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

var now = time.Date(2036, time.February, 7, 6, 28, 17, 500_000_000, time.UTC) // era 1 of NTP, 1.5 s old

// request is what systemd-timesyncd sends: version 4, mode 3, and a transmit timestamp.
func request() []byte {
	packet := make([]byte, packetSize)
	packet[0] = 4<<3 | modeClient
	packet[2] = 6
	copy(packet[40:], "\x01\x02\x03\x04\x05\x06\x07\x08")
	return packet
}

func start(t *testing.T, network string) (address string, counted chan bool) {
	t.Helper()
	counted = make(chan bool, 16)
	s, err := New(Options{
		Address: netip.MustParseAddrPort("127.0.0.1:0"), Clock: func() time.Time { return now },
		Network: func() netip.Prefix { return netip.MustParsePrefix(network) }, Answered: func(ok bool) { counted <- ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s.Addr().String(), counted
}

func TestServe(t *testing.T) {
	address, counted := start(t, "127.0.0.0/8")
	conn, err := net.Dial("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	got := make([]byte, 512)
	for _, packet := range [][]byte{request()[:47], append(request(), make([]byte, 20)...)} {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	n, err := conn.Read(got)
	if err != nil || n != packetSize {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	want := append([]byte{4<<3 | modeServer, 10, 6, 0xec, 0, 0, 0, 0, 0, 0, 0x10, 0}, "LOCL"...)
	at := binary.BigEndian.AppendUint64(nil, 1<<32|1<<31)
	want = append(append(append(append(want, at...), "\x01\x02\x03\x04\x05\x06\x07\x08"...), at...), at...)
	if !bytes.Equal(got[:n], want) {
		t.Errorf("got  %x\nwant %x", got[:n], want)
	}
	if first, second := <-counted, <-counted; first || !second {
		t.Errorf("counted %v, %v, want the short packet as refused and the long one as answered", first, second)
	}
}

// A client outside the network gets no answer, because its source may be forged.
func TestForeignClient(t *testing.T) {
	address, counted := start(t, "127.0.0.0/30")
	for _, source := range []string{"127.0.0.9:0", "127.0.0.2:0"} {
		local := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(source))
		conn, err := (&net.Dialer{LocalAddr: local}).Dial("udp4", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(request()); err != nil {
			t.Fatal(err)
		}
	}
	if ok := <-counted; !ok || len(counted) != 0 {
		t.Errorf("the packet of the other network is counted")
	}
}

func TestRequests(t *testing.T) {
	for name, c := range map[string]struct {
		first byte
		ok    bool
	}{
		"version 4": {4<<3 | 3, true}, "not synchronized": {3<<6 | 4<<3 | 3, true}, "version 3": {3<<3 | 3, true},
		"version 1": {1 << 3, true}, "version 2": {2<<3 | 3, true}, "version 0": {3, false}, "version 5": {5<<3 | 3, false},
		"symmetric": {4<<3 | 1, false}, "answer": {4<<3 | 4, false}, "broadcast": {4<<3 | 5, false},
		"control": {2<<3 | 6, false}, "private": {2<<3 | 7, false}, "version 4 without mode": {4 << 3, false},
	} {
		packet := request()
		packet[0] = c.first
		answer, ok := reply(packet, now, func() time.Time { return now })
		if ok != c.ok || ok && answer[0] != c.first&0x38|modeServer {
			t.Errorf("%s: got %v, first byte %#x", name, ok, answer[0])
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add(request())
	f.Fuzz(func(t *testing.T, packet []byte) {
		answer, ok := reply(packet, now, func() time.Time { return now })
		if ok && (len(packet) < packetSize || answer[0]&7 != modeServer || answer[0]>>6 != 0) {
			t.Errorf("%x: got %x", packet, answer)
		}
	})
}
