// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"testing"
	"time"
)

func TestMachinesBootInTheirTurn(t *testing.T) {
	p := newPlaces(1, time.Hour)
	first := p.enter(t.Context())
	if first == nil {
		t.Fatal("the first machine: got no place, want one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan bool)
	go func() { stopped <- p.enter(ctx) == nil }()
	cancel()
	if !<-stopped {
		t.Error("a machine that is stopped while it waits: got a place, want none")
	}
	second := make(chan func())
	go func() { second <- p.enter(t.Context()) }()
	select {
	case <-second:
		t.Error("the second machine: got a place beside the first, want it to wait")
	default:
	}
	first()
	first() // the place is another machine's now
	leave := <-second
	select {
	case p.taken <- struct{}{}:
		t.Error("after the first machine left twice: got two places, want one")
	default:
	}
	leave()
}

func TestMachineThatHangsLosesItsPlace(t *testing.T) {
	p := newPlaces(1, time.Millisecond)
	p.enter(t.Context())
	if p.enter(t.Context()) == nil {
		t.Error("got no place, want that of the machine that is not up in time")
	}
}

func TestDefaultNumberOfPlaces(t *testing.T) {
	if n := cap(newPlaces(0, time.Hour).taken); n < bootingPerProcessor || n > maxBooting {
		t.Errorf("got %d places, want %d to %d", n, bootingPerProcessor, maxBooting)
	}
}
