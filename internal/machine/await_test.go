// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"testing"
)

func TestAwait(t *testing.T) {
	closed := make(chan struct{})
	close(closed)
	checks := 0
	third := func() (bool, <-chan struct{}) {
		checks++
		return checks == 3, closed
	}
	if err := Await(t.Context(), nil, third); err != nil || checks != 3 {
		t.Errorf("got error %v after %d checks, want none after 3", err, checks)
	}
	never := func() (bool, <-chan struct{}) { return false, nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Await(ctx, nil, never); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got error %v, want %v", err, context.Canceled)
	}
	if err := Await(t.Context(), closed, never); !errors.Is(err, context.Canceled) {
		t.Errorf("with a Runner that is closing: got error %v, want %v", err, context.Canceled)
	}
	always := func() (bool, <-chan struct{}) { return true, nil }
	if err := Await(ctx, closed, always); err != nil {
		t.Errorf("with a condition that is true: got error %v, want none", err)
	}
}
