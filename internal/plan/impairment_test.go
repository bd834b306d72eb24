// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

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
		"none":  {},
		"empty": {spec: &v1alpha1.Impairment{}},
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
		"all": {
			spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(100))}, want: Impairment{Loss: 1},
			text: "100 % loss in each direction",
		},
		"text":         {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromString("some"))}, refuse: true},
		"not a number": {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromString("NaN"))}, refuse: true},
		"too much":     {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(101))}, refuse: true},
		"too little":   {spec: &v1alpha1.Impairment{LossPercent: percent(intstr.FromInt32(-1))}, refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newImpairment(c.spec)
			if c.refuse != (err != nil) {
				t.Fatalf("got error %v, want an error: %t", err, c.refuse)
			}
			if err != nil {
				return
			}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.String() != c.text {
				t.Errorf("got text %q, want %q", got, c.text)
			}
		})
	}
}
