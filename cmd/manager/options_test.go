// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/internal/artifact"
)

func TestHousekeepingFlagsAreNotNegative(t *testing.T) {
	for want, o := range map[string]options{
		"":                 {artifactGrace: time.Hour, artifactFloor: resource.MustParse("1Gi"), orphanGrace: time.Hour},
		"--artifact-grace": {artifactGrace: -1},
		"--artifact-floor": {artifactFloor: resource.MustParse("-1")},
		"--orphan-grace":   {orphanGrace: -1},
	} {
		err := checkHousekeeping(o)
		if want == "" && err != nil {
			t.Errorf("got %v for valid flags", err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want an error that names %s", err, want)
		}
	}
	if err := checkHousekeeping(options{}); err != nil {
		t.Errorf("got %v for zeros, which disable the housekeeping", err)
	}
}

func TestArtifactFlags(t *testing.T) {
	prefixes := func(texts ...string) []netip.Prefix {
		var all []netip.Prefix
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for name, c := range map[string]struct {
		cluster, environment string
		args                 []string
		want                 artifact.Network
		wrong                string
	}{
		"outside a cluster": {want: artifact.Network{AllowPrivate: true}},
		"in a cluster":      {cluster: "10.96.0.1"},
		"opened": {
			cluster: "10.96.0.1", environment: "192.0.2.7, fd01::/16,",
			args: []string{"-artifact-allow-cidr=10.1.2.3/16", "-artifact-allow-cidr=10.9.0.1"},
			want: artifact.Network{Allow: prefixes("192.0.2.7/32", "fd01::/16", "10.1.0.0/16", "10.9.0.1/32")},
		},
		"authorities":         {args: []string{"-artifact-ca-file=ca.pem"}, want: artifact.Network{AllowPrivate: true, CAFile: "ca.pem"}},
		"wrong flag":          {args: []string{"-artifact-allow-cidr=example.com"}, wrong: "example.com"},
		"wrong environment":   {environment: "10.0.0.0/33", wrong: envAllowCIDR},
		"address with a zone": {environment: "fe80::1%eth0", wrong: envAllowCIDR},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envCluster, c.cluster)
			t.Setenv(envAllowCIDR, c.environment)
			all := flag.CommandLine
			t.Cleanup(func() { flag.CommandLine = all })
			flag.CommandLine = flag.NewFlagSet(name, flag.ContinueOnError)
			flag.CommandLine.SetOutput(io.Discard)
			var got artifact.Network
			err := artifactFlags(&got)
			if err == nil {
				err = flag.CommandLine.Parse(c.args)
			}
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("got error %v, want one that names %s", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.AllowPrivate != c.want.AllowPrivate || got.CAFile != c.want.CAFile || !slices.Equal(got.Allow, c.want.Allow) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestDefaultBudget(t *testing.T) {
	var o options
	if err := defaultBudget(&o); err != nil || o.limits.Memory < 32<<20 || o.budget == "" {
		t.Errorf("got a budget of %d from %q, error %v; want one of this host", o.limits.Memory, o.budget, err)
	}
	o = options{budget: "--memory-budget"}
	if err := defaultBudget(&o); err != nil || o.limits.Memory != 0 {
		t.Errorf("got a budget of %d, error %v; want no limit, as the flag sets", o.limits.Memory, err)
	}
}
