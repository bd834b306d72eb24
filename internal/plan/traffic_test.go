// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

func TestImpairment(t *testing.T) {
	percent := func(v intstr.IntOrString) *intstr.IntOrString { return &v }
	duration := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for name, c := range map[string]struct {
		spec   *v1alpha1.Impairment
		want   Impairment
		text   string
		refuse bool
	}{
		"none":    {},
		"nothing": {spec: &v1alpha1.Impairment{}},
		"number": {
			spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(5)), Delay: duration(100 * time.Millisecond)},
			want: Impairment{Loss: 0.05, Delay: 100 * time.Millisecond}, text: "5 % loss, 100ms delay in each direction",
		},
		"decimals": {
			spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromString("0.5"))},
			want: Impairment{Loss: 0.005}, text: "0.5 % loss in each direction",
		},
		"jitter": {
			spec: &v1alpha1.Impairment{Delay: duration(time.Second), Jitter: duration(time.Millisecond)},
			want: Impairment{Delay: time.Second, Jitter: time.Millisecond}, text: "1s ± 1ms delay in each direction",
		},
		"all":          {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(100))}, want: Impairment{Loss: 1}, text: "100 % loss in each direction"},
		"no number":    {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromString("some"))}, refuse: true},
		"not a number": {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromString("NaN"))}, refuse: true},
		"too much":     {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(101))}, refuse: true},
		"too little":   {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(-1))}, refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newImpairment(c.spec)
			if c.refuse != (err != nil) {
				t.Fatalf("error is %v", err)
			}
			if err == nil && (got != c.want || got.String() != c.text) {
				t.Errorf("got %+v, %q", got, got)
			}
		})
	}
}

func TestNetworkStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(s int64) *metav1.Time { m := metav1.NewTime(now.Add(time.Duration(s) * time.Second)); return &m }
	type frames = []v1alpha1.RefusedFrames
	one := frames{{Target: "a", ForeignMAC: 1}}
	for name, c := range map[string]struct {
		before   v1alpha1.LabNetworkStatus
		frames   frames
		requests map[string]int64
		want     v1alpha1.LabNetworkStatus
		news     int
	}{
		"peace":     {},
		"the first": {frames: one, want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(0)}, news: 1},
		"more of it, soon after": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-29)}, frames: frames{{Target: "a", ForeignMAC: 9000}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-29)},
		},
		"more of it, later": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-30)}, frames: frames{{Target: "a", ForeignMAC: 9000}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: frames{{Target: "a", ForeignMAC: 9000}}, CountedAt: at(0)},
		},
		"another kind, soon after": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-1)}, frames: frames{{Target: "a", ForeignMAC: 1, DHCPServer: 2, RouterAdvertisement: 3}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: frames{{Target: "a", ForeignMAC: 1, DHCPServer: 2, RouterAdvertisement: 3}}, CountedAt: at(0)}, news: 2,
		},
		"the same": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)}, frames: one,
			want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)},
		},
		"counting began anew": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)},
			want:   v1alpha1.LabNetworkStatus{CountedAt: at(0)},
		},
		"the clock went back": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(100)}, frames: frames{{Target: "a", ForeignMAC: 2}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: frames{{Target: "a", ForeignMAC: 2}}, CountedAt: at(0)},
		},
		"requests": {
			requests: map[string]int64{"HTTPUnknownToken": 3},
			want:     v1alpha1.LabNetworkStatus{RefusedRequests: map[string]int64{"HTTPUnknownToken": 3}, CountedAt: at(0)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, news := NetworkStatus(c.before, Impairment{}, c.frames, c.requests, now)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if len(news) != c.news {
				t.Errorf("news: %q", news)
			}
		})
	}

	var many frames
	requests := map[string]int64{}
	for i := range 100 {
		many = append(many, v1alpha1.RefusedFrames{Target: fmt.Sprintf("t%02d", i), DHCPServer: int64(1 + i)})
		requests[fmt.Sprint("reason", i)] = 1
	}
	got, _ := NetworkStatus(v1alpha1.LabNetworkStatus{}, Impairment{}, many, requests, now)
	if len(got.RefusedFrames) != maxRefusedFrames || got.RefusedFrames[0].Target != "t68" || len(got.RefusedRequests) != maxRefusedRequests {
		t.Errorf("shown of many: %+v", got)
	}
}
