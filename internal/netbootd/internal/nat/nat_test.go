// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolvers(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"only loopback": {"nameserver 127.0.0.53\noptions edns0\n", nil},
		"uplink":        {"# made by networkd\nnameserver 10.0.2.3\nsearch lan\n", []string{"10.0.2.3"}},
		"several with invalid lines": {
			"nameserver\t10.0.2.3\nnameserver fe80::1%eth0\nnameserver x\nnameserver\nnameserver 9.9.9.9",
			[]string{"10.0.2.3", "9.9.9.9"},
		},
		"empty":            {"", nil},
		"only unspecified": {"nameserver 0.0.0.0\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, a := range Resolvers(c.text) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Resolvers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnsureRejectsNonIPv4(t *testing.T) {
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("fd00::/64")} {
		if Ensure(p) == nil {
			t.Errorf("Ensure(%s) = nil, want an error", p)
		}
	}
}
