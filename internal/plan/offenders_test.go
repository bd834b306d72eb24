// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

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
		"no counters":   {},
		"first refusal": {frames: one, want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(0)}, news: 1},
		"same kind within the interval": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-29)}, frames: frames{{Target: "a", ForeignMAC: 9000}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-29)},
		},
		"same kind after the interval": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-30)}, frames: frames{{Target: "a", ForeignMAC: 9000}},
			want: v1alpha1.LabNetworkStatus{RefusedFrames: frames{{Target: "a", ForeignMAC: 9000}}, CountedAt: at(0)},
		},
		"another kind within the interval": {
			before: v1alpha1.LabNetworkStatus{
				RefusedFrames: one, CountedAt: at(-1),
			}, frames: frames{{Target: "a", ForeignMAC: 1, DHCPServer: 2, RouterAdvertisement: 3}},
			want: v1alpha1.LabNetworkStatus{
				RefusedFrames: frames{{Target: "a", ForeignMAC: 1, DHCPServer: 2, RouterAdvertisement: 3}}, CountedAt: at(0),
			}, news: 2,
		},
		"every kind": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-1)},
			frames: frames{{Target: "a", ForeignMAC: 1, ForeignAddress: 2, DHCPClient: 3, Excess: 4}},
			want: v1alpha1.LabNetworkStatus{
				RefusedFrames: frames{{Target: "a", ForeignMAC: 1, ForeignAddress: 2, DHCPClient: 3, Excess: 4}}, CountedAt: at(0),
			}, news: 3,
		},
		"unchanged counters": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)}, frames: one,
			want: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)},
		},
		"counters reset": {
			before: v1alpha1.LabNetworkStatus{RefusedFrames: one, CountedAt: at(-100)},
			want:   v1alpha1.LabNetworkStatus{CountedAt: at(0)},
		},
		"clock set back": {
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
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if len(news) != c.news {
				t.Errorf("got news %q, want %d messages", news, c.news)
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
	if n := len(got.RefusedFrames); n != maxRefusedFrames {
		t.Fatalf("got %d machines with refused frames, want %d", n, maxRefusedFrames)
	}
	if first := got.RefusedFrames[0].Target; first != "t68" {
		t.Errorf("got refused frames of %q first, want \"t68\"", first)
	}
	if n := len(got.RefusedRequests); n != maxRefusedRequests {
		t.Errorf("got %d reasons of refused requests, want %d", n, maxRefusedRequests)
	}
}
