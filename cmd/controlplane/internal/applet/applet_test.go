// SPDX-License-Identifier: Apache-2.0

package applet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestSelect(t *testing.T) {
	table := Table{"serve": {}, "etcd": {}, "kubectl": {About: "talks"}}
	tests := map[string]struct {
		argv     []string
		want     string
		wantArgs []string
		wantErr  string
	}{
		"link": {argv: []string{"/x/envtest/etcd", "--data-dir", "d"}, want: "etcd", wantArgs: []string{"--data-dir", "d"}},
		"first argument": {
			argv: []string{"bin/controlplane", "kubectl", "get", "ns"},
			want: "kubectl", wantArgs: []string{"get", "ns"},
		},
		"link wins over arguments": {argv: []string{"kubectl", "etcd"}, want: "kubectl", wantArgs: []string{"etcd"}},
		"flags only":               {argv: []string{"controlplane", "--data-dir", "d"}, want: "serve", wantArgs: []string{"--data-dir", "d"}},
		"no arguments":             {argv: []string{"controlplane"}, want: "serve"},
		"empty argv":               {want: "serve"},
		"renamed binary":           {argv: []string{"cp-1.2", "serve"}, want: "serve"},
		"unknown":                  {argv: []string{"controlplane", "kubelet"}, wantErr: `unknown command "kubelet"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, args, err := table.Select(tt.argv, "serve")
			if tt.wantErr != "" {
				if err == nil {
					t.Fatalf("got no error, want one that contains %q", tt.wantErr)
				}
				for _, want := range []string{tt.wantErr, "kubectl          talks"} {
					if !strings.Contains(err.Error(), want) {
						t.Fatalf("got error %v, want one that contains %q", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("applet %q, want %q", got, tt.want)
			}
			if diff := cmp.Diff(tt.wantArgs, args, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}
