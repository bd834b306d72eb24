// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommandLine(t *testing.T) {
	type want struct {
		Base, MAC, Address, Gateway string
		MTU                         int
	}
	for name, c := range map[string]struct {
		cmdline string
		want    want
		err     string
	}{
		"all": {
			cmdline: "BOOT_IMAGE=kernel initrd=initrd.magic rdinit=/pxelab-installer console=ttyS0,115200 " +
				"pxelab.url=http://10.5.0.1/m/t0k/ pxelab.net=52:54:00:aa:bb:0C,10.5.0.7/24,10.5.0.1,9000 quiet\n",
			want: want{"http://10.5.0.1/m/t0k/", "52:54:00:aa:bb:0c", "10.5.0.7/24", "10.5.0.1", 9000},
		},
		"no gateway, no MTU": {
			cmdline: "pxelab.url=http://10.5.0.1:8080/m/t pxelab.net=52-54-00-aa-bb-0c,10.5.0.7/16",
			want:    want{"http://10.5.0.1:8080/m/t/", "52:54:00:aa:bb:0c", "10.5.0.7/16", "", 0},
		},
		"empty gateway as iPXE renders an unset setting": {
			cmdline: "pxelab.url=http://10.5.0.1/m/t/ pxelab.net=52:54:00:aa:bb:0c,10.5.0.7/255.255.255.128,,",
			want:    want{"http://10.5.0.1/m/t/", "52:54:00:aa:bb:0c", "10.5.0.7/25", "", 0},
		},
		"IPv6": {
			cmdline: "pxelab.url=http://[fd00::1]/m/t/ pxelab.net=52:54:00:aa:bb:0c,fd00::7/64,fd00::1,1500",
			want:    want{"http://[fd00::1]/m/t/", "52:54:00:aa:bb:0c", "fd00::7/64", "fd00::1", 1500},
		},
		"last of repeated arguments, quotes": {
			cmdline: `a="b pxelab.url=http://bad/ c" pxelab.url=http://x/ "pxelab.url=http://10.5.0.1/m/t/" ` +
				`pxelab.net=52:54:00:aa:bb:0c,10.5.0.7/24`,
			want: want{"http://10.5.0.1/m/t/", "52:54:00:aa:bb:0c", "10.5.0.7/24", "", 0},
		},
		"nothing":     {cmdline: "quiet", err: "has no pxelab.url="},
		"no net":      {cmdline: "pxelab.url=http://x/", err: "has no pxelab.net="},
		"no http":     {cmdline: "pxelab.url=ftp://x/", err: "is not an http URL"},
		"bad MAC":     {cmdline: "pxelab.url=http://x/ pxelab.net=nonsense,10.5.0.7/24", err: "invalid MAC address"},
		"no prefix":   {cmdline: "pxelab.url=http://x/ pxelab.net=52:54:00:aa:bb:0c,10.5.0.7", err: "no '/'"},
		"bad netmask": {cmdline: "pxelab.url=http://x/ pxelab.net=52:54:00:aa:bb:0c,10.5.0.7/255.0.255.0", err: "is not a netmask"},
		"no address":  {cmdline: "pxelab.url=http://x/ pxelab.net=52:54:00:aa:bb:0c,0.0.0.0/24", err: "is not a valid address for a machine"},
		"bad gateway": {cmdline: "pxelab.url=http://x/ pxelab.net=52:54:00:aa:bb:0c,10.5.0.7/24,x", err: "gateway:"},
		"bad MTU":     {cmdline: "pxelab.url=http://x/ pxelab.net=52:54:00:aa:bb:0c,10.5.0.7/24,,9", err: "is not an MTU"},
		"too many":    {cmdline: "pxelab.url=http://x/ pxelab.net=a,b,c,d,e", err: "want MAC,ADDRESS"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := ParseCommandLine(c.cmdline)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := want{s.Base.String(), s.MAC.String(), s.Address.String(), "", s.MTU}
			if s.Gateway != (netip.Addr{}) {
				got.Gateway = s.Gateway.String()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTierOf(t *testing.T) {
	for modalias, want := range map[string]tier{
		"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00": tierFirst,
		"pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00": tierFirst,
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00": tierFirst,
		"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01": tierDisks,
		"pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02": tierDisks,
		"pci:v00008086d00009D2Fsv00008086sd00002063bc0Csc03i30": tierRest,
		"pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00": tierNever,
		"pci:v00008086d00009D71sv00008086sd00002063bc04sc03i00": tierNever,
		"pci:short":                            tierRest,
		"virtio:d00000001v00001AF4":            tierFirst,
		"virtio:d00000002v00001AF4":            tierFirst,
		"virtio:d00000008v00001AF4":            tierDisks,
		"virtio:d00000010v00001AF4":            tierNever,
		"of:Nvirtio_mmioT(null)Cvirtio,mmio":   tierFirst,
		"acpi:LNRO0005:":                       tierFirst,
		"acpi:PNP0501:":                        tierRest,
		"scsi:t-0x00":                          tierDisks,
		"scsi:t-0x05":                          tierNever,
		"usb:v0BDAp8153d3000dc00":              tierRest,
		"vmbus:635161f83edfc546913ff2d2f965ed": tierFirst,
		"cpu:type:x86,ven0000fam0006mod003C":   tierNever,
		"nonsense":                             tierNever,
	} {
		if got := tierOf(modalias); got != want {
			t.Errorf("tierOf(%q) = %d, want %d", modalias, got, want)
		}
	}
}
