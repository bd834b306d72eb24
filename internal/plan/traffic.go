// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Impairment is what a lab network suffers on purpose in each direction. Loss
// is a part, 0 to 1. The zero value is a network that is well.
type Impairment struct {
	Loss          float64
	Delay, Jitter time.Duration
}

func newImpairment(spec *v1alpha1.Impairment) (Impairment, error) {
	var i Impairment
	if spec == nil {
		return i, nil
	}
	if loss := spec.LossPercent; loss != nil {
		percent := float64(loss.IntVal)
		if loss.Type == intstr.String {
			var err error
			if percent, err = strconv.ParseFloat(loss.StrVal, 64); err != nil {
				return i, invalid(v1alpha1.ReasonInvalid, "spec.network.impairment.lossPercent %q is no number; write it like 5 or \"0.5\"", loss.StrVal)
			}
		}
		if !(percent >= 0 && percent <= 100) { // also what is not a number
			return i, invalid(v1alpha1.ReasonInvalid, "spec.network.impairment.lossPercent %s is not between 0 and 100", loss)
		}
		i.Loss = percent / 100
	}
	if spec.Delay != nil {
		i.Delay = spec.Delay.Duration
	}
	if spec.Jitter != nil {
		i.Jitter = spec.Jitter.Duration
	}
	return i, nil
}

// String is for people; empty when there is none.
func (i Impairment) String() string {
	var parts []string
	if i.Loss > 0 {
		parts = append(parts, strconv.FormatFloat(i.Loss*100, 'g', 4, 64)+" % loss")
	}
	if i.Delay > 0 {
		text := i.Delay.String() + " delay"
		if i.Jitter > 0 {
			text = i.Delay.String() + " ± " + i.Jitter.String() + " delay"
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + " in each direction"
}

const (
	// countEvery is how often counters that grow are written at most: a machine
	// that floods must not make the API server work.
	countEvery = 30 * time.Second
	// maxRefusedFrames machines are shown, maxRefusedRequests reasons.
	maxRefusedFrames   = 32
	maxRefusedRequests = 32
)

// NetworkStatus is what is shown of a network, and what is news in it: one
// line for each machine and kind of misbehaviour that was not shown before.
// frames and requests are the counters now.
func NetworkStatus(before v1alpha1.LabNetworkStatus, i Impairment, frames []v1alpha1.RefusedFrames, requests map[string]int64, now time.Time) (_ v1alpha1.LabNetworkStatus, news []string) {
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
	who := "target " + now.Target
	if now.Target == "" {
		who = "the server"
	}
	for _, k := range []struct {
		before, now int64
		did         string
	}{
		{before.ForeignMAC, now.ForeignMAC, "sent frames from a MAC address that is not its own"},
		{before.DHCPServer, now.DHCPServer, "sent DHCP replies, which only the server may"},
		{before.RouterAdvertisement, now.RouterAdvertisement, "sent IPv6 router advertisements or redirects, which only the server may"},
	} {
		if k.before == 0 && k.now > 0 {
			news = append(news, fmt.Sprintf("%s %s; the network dropped them", who, k.did))
		}
	}
	return news
}

// mostRefused are the worst machines, ordered by name so that a list that does
// not change looks the same.
func mostRefused(frames []v1alpha1.RefusedFrames) []v1alpha1.RefusedFrames {
	total := func(f v1alpha1.RefusedFrames) int64 { return f.ForeignMAC + f.DHCPServer + f.RouterAdvertisement }
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
