// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

const (
	// countEvery is the shortest interval between two writes of counters that
	// grow, so that a flooding machine does not load the API server.
	countEvery = 30 * time.Second
	// maxRefusedFrames is the maximum number of machines in a status.
	maxRefusedFrames = 32
	// maxRefusedRequests is the maximum number of reasons in a status.
	maxRefusedRequests = 32
)

// NetworkStatus returns the status of a network and one message for each machine
// and kind of misbehaviour that before does not contain. frames and requests are
// the current counters.
func NetworkStatus(
	before v1alpha1.LabNetworkStatus, i Impairment, frames []v1alpha1.RefusedFrames, requests map[string]int64, now time.Time,
) (_ v1alpha1.LabNetworkStatus, news []string) {
	shown := map[string]v1alpha1.RefusedFrames{}
	for _, f := range before.RefusedFrames {
		shown[f.Target] = f
	}
	for _, f := range frames {
		news = append(news, newlyRefused(shown[f.Target], f)...)
	}
	after := before
	after.Impairment = i.String()
	fresh := before.CountedAt != nil && now.Sub(before.CountedAt.Time) < countEvery && !now.Before(before.CountedAt.Time)
	if len(news) == 0 && fresh {
		return after, nil
	}
	after.RefusedFrames, after.RefusedRequests = mostRefused(frames), mostRequests(requests)
	same := slices.Equal(before.RefusedFrames, after.RefusedFrames) && maps.Equal(before.RefusedRequests, after.RefusedRequests)
	if !same {
		at := metav1.NewTime(now)
		after.CountedAt = &at
	}
	return after, news
}

func newlyRefused(before, now v1alpha1.RefusedFrames) (news []string) {
	sender := "target " + now.Target
	if now.Target == "" {
		sender = "the server"
	}
	for _, k := range []struct {
		before, now int64
		did         string
	}{
		{before.ForeignMAC, now.ForeignMAC, "sent frames from a MAC address that is not its own"},
		{before.DHCPServer, now.DHCPServer, "sent DHCP replies, which only the server may send"},
		{before.RouterAdvertisement, now.RouterAdvertisement, "sent IPv6 router advertisements or redirects, which only the server may send"},
		{before.ForeignAddress, now.ForeignAddress, "sent packets with addresses that are not its own"},
		{before.DHCPClient, now.DHCPClient, "sent DHCP requests for another machine"},
		{before.Excess, now.Excess, "sent too many frames to all machines, or requests"},
	} {
		if k.before == 0 && k.now > 0 {
			news = append(news, fmt.Sprintf("%s %s; the network dropped them", sender, k.did))
		}
	}
	return news
}

// mostRefused returns the machines with the most refused frames, ordered by name
// so that the list is stable.
func mostRefused(frames []v1alpha1.RefusedFrames) []v1alpha1.RefusedFrames {
	total := func(f v1alpha1.RefusedFrames) int64 {
		return f.ForeignMAC + f.DHCPServer + f.RouterAdvertisement + f.ForeignAddress + f.DHCPClient + f.Excess
	}
	out := slices.SortedFunc(slices.Values(frames), func(a, b v1alpha1.RefusedFrames) int {
		return cmp.Or(cmp.Compare(total(b), total(a)), cmp.Compare(a.Target, b.Target))
	})
	out = out[:min(len(out), maxRefusedFrames)]
	slices.SortFunc(out, func(a, b v1alpha1.RefusedFrames) int { return cmp.Compare(a.Target, b.Target) })
	return out
}

func mostRequests(requests map[string]int64) map[string]int64 {
	if len(requests) == 0 {
		return nil
	}
	var reasons []string
	for reason := range requests {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	out := map[string]int64{}
	for _, reason := range reasons[:min(len(reasons), maxRefusedRequests)] {
		out[reason] = requests[reason]
	}
	return out
}
