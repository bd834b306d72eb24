// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"
)

func TestEarliest(t *testing.T) {
	for name, c := range map[string]struct {
		delays []time.Duration
		want   time.Duration
	}{
		"none":              {nil, 0},
		"never":             {[]time.Duration{0, 0}, 0},
		"over":              {[]time.Duration{-5 * time.Second}, 0},
		"over_and_later":    {[]time.Duration{-5 * time.Second, 30 * time.Second}, 30 * time.Second},
		"at_least_a_second": {[]time.Duration{time.Millisecond, 10 * time.Second}, time.Second},
		"shortest":          {[]time.Duration{10 * time.Second, 0, 3 * time.Second}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := earliest(c.delays...); got != c.want {
				t.Errorf("earliest(%v) = %s, want %s", c.delays, got, c.want)
			}
		})
	}
}
