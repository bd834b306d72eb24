// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Unknown clients that ask again must not change the server's status: each change
// wakes every target.
func TestUnknownClientsDoNotChurn(t *testing.T) {
	start := time.Unix(0, 0)
	var unknown []netbootapi.UnknownClient
	for i := range 20 {
		unknown = append(unknown, netbootapi.UnknownClient{
			MAC: fmt.Sprintf("02:00:00:00:00:%02x", i), FirstSeen: start.Add(time.Duration(i) * time.Second), LastSeen: start})
	}
	shown := unknownClients(unknown)
	if len(shown) != maxUnknown || shown[0].MACAddress != "02:00:00:00:00:04" {
		t.Fatalf("got %d clients from %s; want the last %d of 20, by MAC address", len(shown), shown[0].MACAddress, maxUnknown)
	}
	for i := range 100 {
		again := &unknown[i*7%20]
		again.LastSeen = start.Add(time.Duration(i) * time.Minute)
		unknown = append([]netbootapi.UnknownClient{unknown[19]}, unknown[:19]...)
		if diff := cmp.Diff(shown, unknownClients(unknown)); diff != "" {
			t.Fatalf("after %d requests of known clients (-first +now):\n%s", i+1, diff)
		}
	}
	unknown = append(unknown, netbootapi.UnknownClient{MAC: "02:00:00:00:00:ff", FirstSeen: start.Add(time.Hour), Architecture: "x86_64"})
	got := unknownClients(unknown)
	want := append(shown[1:len(shown):len(shown)], v1alpha1.UnknownClient{MACAddress: "02:00:00:00:00:ff", Architecture: "x86_64"})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the discovery of another client (-want +got):\n%s", diff)
	}
}
