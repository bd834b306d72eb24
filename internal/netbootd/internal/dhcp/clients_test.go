// SPDX-License-Identifier: Apache-2.0

package dhcp

import (
	"bytes"
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// option is an option of a packet that is written byte by byte.
type option struct {
	code  byte
	value []byte
}

func text(code byte, s string) option { return option{code, []byte(s)} }

// packet returns a request as a client sends it; edit changes its fixed part, tail follows
// the options.
func packet(edit func(fixed []byte), tail []byte, options ...option) []byte {
	b := make([]byte, cookieAt)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[28:], known)
	if edit != nil {
		edit(b)
	}
	b = append(b, 99, 130, 83, 99)
	for _, o := range options {
		b = append(append(b, o.code, byte(len(o.value))), o.value...)
	}
	return append(b, tail...)
}

// Clients that do not follow the standards to the letter are served as what they are.
func TestDeviatingClients(t *testing.T) {
	discover := option{53, []byte{1}}
	pxe := text(60, "PXEClient:Arch:00007:UNDI:003000")
	httpClass := text(60, "HTTPClient:Arch:00007:UNDI:003001")
	arch := func(list ...byte) option { return option{93, list} }
	end := []byte{255}
	in := func(at int, raw string) func([]byte) {
		return func(b []byte) { copy(b[at:], raw) }
	}
	const program, url = "ipxe.efi", "http://10.0.0.1/boot/"
	script := url + known.String()
	for name, c := range map[string]struct {
		packet []byte
		stage  Stage
		file   string
	}{
		"architecture list, bootable first":  {packet(nil, end, discover, pxe, arch(0, 7, 0, 6)), Firmware, program},
		"architecture list, bootable last":   {packet(nil, end, discover, pxe, arch(0, 0, 0, 6, 0, 7)), Firmware, program},
		"architecture list, none bootable":   {packet(nil, end, discover, pxe, arch(0, 0, 0, 6)), Firmware, ""},
		"architecture list with an odd byte": {packet(nil, end, discover, pxe, arch(0, 6, 0, 7, 0)), Firmware, program},
		"architecture of one byte":           {packet(nil, end, discover, pxe, arch(7)), Firmware, program},
		"arm64 in a list":                    {packet(nil, end, discover, pxe, arch(0, 6, 0, 11)), Firmware, "ipxe-arm64.efi"},
		"HTTPClient with a TFTP architecture": {
			packet(nil, end, discover, httpClass, arch(0, 7)), Firmware, script,
		},
		"HTTPClient without option 93":      {packet(nil, end, discover, httpClass), Firmware, script},
		"PXEClient with an HTTP one":        {packet(nil, end, discover, pxe, arch(0, 16)), Firmware, program},
		"vendor class with a zero":          {packet(nil, end, discover, text(60, "PXEClient\x00"), arch(0, 7)), Firmware, program},
		"user class with a zero":            {packet(nil, end, discover, pxe, arch(0, 7), text(77, "iPXE\x00")), IPXE, script},
		"user class in a list":              {packet(nil, end, discover, pxe, arch(0, 7), text(77, "\x03foo\x04iPXE")), IPXE, script},
		"user class in a list with a zero":  {packet(nil, end, discover, pxe, arch(0, 7), text(77, "\x05iPXE\x00")), IPXE, script},
		"user class in a damaged list":      {packet(nil, end, discover, pxe, arch(0, 7), text(77, "\x09iPXE")), Firmware, program},
		"another user class":                {packet(nil, end, discover, pxe, arch(0, 7), text(77, "\x03foo\x00")), Firmware, program},
		"no end option":                     {packet(nil, nil, discover, pxe, arch(0, 7)), Firmware, program},
		"no end option, padded":             {packet(nil, make([]byte, 40), discover, pxe, arch(0, 7)), Firmware, program},
		"bytes after the end option":        {packet(nil, []byte{255, 12, 3, 1}, discover, pxe, arch(0, 7)), Firmware, program},
		"option 53 in the file field":       {packet(in(fileAt, "\x35\x01\x01\xff"), end, option{52, []byte{1}}, pxe, arch(0, 7)), Firmware, program},
		"option 93 in the server name":      {packet(in(serverNameAt, "\x5d\x02\x00\x07\xff"), end, option{52, []byte{2}}, discover, pxe), Firmware, program},
		"options in both fields, one split": {packet(func(b []byte) { in(fileAt, "\x3c\x03PXE\xff")(b); in(serverNameAt, "\x3c\x06Client\xff")(b) }, end, option{52, []byte{3}}, discover, arch(0, 7)), Firmware, program},
		"a file field that is not options":  {packet(in(fileAt, "\x35\x01\x08\xff"), end, discover, pxe, arch(0, 7)), Firmware, program},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := parse(c.packet)
			if err != nil {
				t.Fatal(err)
			}
			reply, ev := responder(t).Reply(req, t0)
			if reply == nil || ev.Kind != Offer {
				t.Fatalf("got event %+v, want an offer", ev)
			}
			if ev.Stage != c.stage || ev.BootFile != c.file {
				t.Errorf("got stage %s and boot file %q, want %s and %q", ev.Stage, ev.BootFile, c.stage, c.file)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	whole := packet(nil, []byte{255}, option{53, []byte{1}})
	for name, b := range map[string][]byte{
		"nothing":                  nil,
		"a short header":           whole[:200],
		"no cookie":                whole[:cookieAt],
		"a truncated option":       packet(nil, []byte{12, 200, 1}, option{53, []byte{1}}),
		"a truncated header field": packet(func(b []byte) { b[fileAt], b[fileAt+1] = 12, 255 }, []byte{255}, option{52, []byte{1}}),
	} {
		t.Run(name, func(t *testing.T) {
			before := bytes.Clone(b)
			if m, err := parse(b); err == nil {
				t.Errorf("got %s, want an error", m.Summary())
			}
			if !bytes.Equal(before, b) {
				t.Error("the packet was changed, want it as before")
			}
		})
	}
}

// What may have a secret is sent to the client alone.
func TestSecretsReachTheClientAlone(t *testing.T) {
	for name, mod := range map[string]dhcpv4.Modifier{
		"broadcast flag": dhcpv4.WithBroadcast(true),
		"no flag":        dhcpv4.WithBroadcast(false),
		"relay agent":    dhcpv4.WithRelay(net.IPv4(10, 0, 0, 50)),
	} {
		for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
			req := message(t, kind, known, ipxe, mod, requested("10.0.0.105"))
			r := responder(t)
			reply, ev := r.Reply(req, t0)
			to := destination(req, reply)
			if to.MAC.String() != known.String() && ev.BootFile != "" {
				t.Errorf("%s, %s: got boot file %q for MAC %q, want it for %s alone", name, kind, ev.BootFile, to.MAC, known)
			}
			if relayed := name == "relay agent"; relayed != (ev.BootFile == "") || relayed && ev.Reason != ReasonRelayed {
				t.Errorf("%s, %s: got boot file %q, reason %q; want one unless it is relayed", name, kind, ev.BootFile, ev.Reason)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet(nil, []byte{255}, option{53, []byte{1}}, option{93, []byte{0, 6, 0, 7}}, option{77, []byte("\x04iPXE")}))
	f.Add(packet(func(b []byte) { copy(b[fileAt:], "\x35\x01\x01\xff") }, nil, option{52, []byte{3}}))
	f.Add(packet(func(b []byte) { copy(b[fileAt:], "\x34\x01\x01\xff") }, nil, option{52, []byte{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		c := identify(m)
		if _, known := m.Options[optOverload]; known {
			t.Error("got option 52, want its effect only")
		}
		if c.Stage == Firmware && c.Arch.Machine() != "" && c.Arch.HTTP() != bytes.HasPrefix(m.Options[60], []byte(vendorHTTPClient)) {
			t.Errorf("got architecture %s for vendor class %q, want one that boots as the class does", c.Arch, m.Options[60])
		}
	})
}
