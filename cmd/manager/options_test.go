// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
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
