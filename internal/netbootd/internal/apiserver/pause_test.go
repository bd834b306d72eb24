// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"testing"
	"time"
)

func TestPauseAfterAnUpdate(t *testing.T) {
	for name, c := range map[string]struct{ took, want time.Duration }{
		"quick":     {time.Millisecond, coalesce},
		"slow":      {50 * time.Millisecond, 500 * time.Millisecond},
		"very slow": {time.Minute, maxCoalesce},
	} {
		if got := pauseAfter(c.took); got != c.want {
			t.Errorf("%s: got a pause of %s, want %s", name, got, c.want)
		}
	}
}
