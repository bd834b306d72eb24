// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// capture returns the bytes of a file of hexadecimal digits; lines that start with #
// are comments.
func capture(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, "#") {
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMessagesEqualCaptures compares what the guest sends with what a real guest with
// the same MAC address and UUID sent, byte by byte.
func TestMessagesEqualCaptures(t *testing.T) {
	for name, c := range map[string]struct {
		request bool
		ipxe    bool
	}{
		"ovmf-discover.hex": {}, "ovmf-request.hex": {request: true},
		"ipxe-discover.hex": {ipxe: true}, "ipxe-request.hex": {ipxe: true, request: true},
	} {
		t.Run(name, func(t *testing.T) {
			want := capture(t, name)
			parsed, err := dhcpv4.FromBytes(want)
			if err != nil {
				t.Fatal(err)
			}
			g := New(Config{UUID: testUUID, NICs: []NIC{{ID: testNIC, MAC: parsed.ClientHWAddr}}})
			x := &ipxe{g: g, nic: g.nics[0]}
			kind, server, address := byte(dhcpDiscover), netip.Addr{}, netip.Addr{}
			if c.request {
				kind = dhcpRequest
				server = netip.AddrFrom4([4]byte(parsed.Options.Get(dhcpv4.OptionServerIdentifier)))
				address = netip.AddrFrom4([4]byte(parsed.Options.Get(dhcpv4.OptionRequestedIPAddress)))
			}
			p := g.firmwareDHCP()
			if c.ipxe {
				p = x.dhcpProgram()
			}
			client := dhcpClient{g: g, nic: g.nics[0], program: p}
			m := client.message(kind, server, address)
			copy(want[4:8], []byte{0, 0, 0, 0}) // the transaction ID is random
			copy(want[8:10], []byte{0, 0})      // so is the time
			m.xid, m.seconds = 0, 0
			if diff := cmp.Diff(hex.Dump(want), hex.Dump(m.marshal())); diff != "" {
				t.Errorf("message (-captured +sent):\n%s", diff)
			}
		})
	}
}

func TestParseReply(t *testing.T) {
	message := func(options ...byte) []byte {
		b := make([]byte, dhcpHeader)
		b[0], b[1], b[2] = bootReply, ethernetType, 6
		copy(b[4:], []byte{1, 2, 3, 4})
		copy(b[16:], []byte{10, 9, 0, 11})
		copy(b[28:], testMAC)
		copy(b[44:], "\x0c\x04host\xff")
		copy(b[108:], "file")
		copy(b[236:], dhcpCookie)
		return append(b, options...)
	}
	for name, c := range map[string]struct {
		raw        []byte
		file, host string
		bad        bool
	}{
		"boot file in the header": {raw: message(255), file: "file"},
		"boot file as option":     {raw: message(67, 4, 'n', 'e', 'w', 0, 255), file: "new"},
		"split option":            {raw: message(67, 2, 'a', 'b', 67, 1, 'c', 255), file: "abc"},
		"options in server name":  {raw: message(52, 1, 2, 255), file: "file", host: "host"},
		"padding":                 {raw: message(0, 0, 255, 0, 0), file: "file"},
		"no end":                  {raw: message(), file: "file"},
		"truncated option":        {raw: message(67, 200, 'x'), bad: true},
		"truncated header":        {raw: message()[:200], bad: true},
		"another protocol":        {raw: bytes.Repeat([]byte{7}, 300), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parseReply(c.raw)
			if (err != nil) != c.bad {
				t.Fatalf("got error %v, want one: %t", err, c.bad)
			}
			if c.bad {
				return
			}
			if r.file != c.file || text(r.options[optHostName]) != c.host {
				t.Errorf("got boot file %q and host name %q, want %q and %q", r.file, text(r.options[optHostName]), c.file, c.host)
			}
			if r.xid != 0x01020304 || r.your != guestAddr || !bytes.Equal(r.mac, testMAC) {
				t.Errorf("got %+v, want the transaction, address and MAC address of the header", r)
			}
		})
	}
}

func TestDHCPFrame(t *testing.T) {
	frame := replyFrame(testMAC, true, []byte("payload"))
	if got := dhcpIn(frame); string(got) != "payload" {
		t.Errorf("got payload %q, want it", got)
	}
	for _, at := range []int{12, 14, 20, 23, 30, 37, 44} {
		damaged := bytes.Clone(frame)
		damaged[at] ^= 0x10
		if got := dhcpIn(damaged); got != nil {
			t.Errorf("byte %d changed: got payload %q, want none", at, got)
		}
	}
	for n := range frame {
		dhcpIn(frame[:n])
	}
	m := dhcpToServer(dhcpFrame(testMAC, 1, message{mac: testMAC, options: []option{{optMessageType, []byte{1}}}}.marshal()))
	if m == nil || m.MessageType() != dhcpv4.MessageTypeDiscover {
		t.Errorf("got %v, want a DISCOVER that another codec reads", m)
	}
}

func TestMachineID(t *testing.T) {
	for uuid, want := range map[string]string{
		testUUID: "007856341234127856" + "0102030405060708", "": strings.Repeat("0", 34), "no": strings.Repeat("0", 34),
	} {
		if got := hex.EncodeToString(machineID(uuid)); got != want {
			t.Errorf("%q: got %s, want %s", uuid, got, want)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add(replyFrame(testMAC, false, []byte("x"))[42:])
	f.Add(message{mac: testMAC}.marshal())
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseReply(raw)
		if err != nil {
			return
		}
		r.kind()
		r.number(optLease)
		if prefix, err := r.prefix(); err == nil && !prefix.IsValid() {
			t.Errorf("got the prefix %s without an error, want a valid one", prefix)
		}
		if len(r.file) > len(raw) {
			t.Errorf("got a boot file of %d bytes from %d, want no more", len(r.file), len(raw))
		}
	})
}

func FuzzReceive(f *testing.F) {
	f.Add(replyFrame(testMAC, true, []byte("payload")))
	f.Fuzz(func(_ *testing.T, frame []byte) {
		if message := dhcpIn(frame); message != nil {
			_, _ = parseReply(message)
		}
	})
}
