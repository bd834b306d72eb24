// SPDX-License-Identifier: Apache-2.0

package qemutest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pxelab/pxelab/internal/machine"
)

// limit bounds each case of the suite.
const limit = 2 * time.Minute

type suite struct {
	*testing.T
	Harness
	ctx    context.Context
	id     string
	events <-chan machine.Event
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("got error %v, want %v", err, want)
	}
}

func (s *suite) observe() machine.State {
	s.Helper()
	state, err := s.Runner.Observe(s.ctx, s.id)
	s.must(err)
	return state
}

func (s *suite) start() machine.State {
	s.Helper()
	s.must(s.Runner.Start(s.ctx, s.Machine))
	if state := s.observe(); !state.Phase.Alive() || state.StartedAt.IsZero() || state.Digest != s.Machine.Digest() {
		s.Fatalf("after Start: got state %+v, want it starting", state)
	}
	s.wantEvent(machine.EventStarted)
	state := s.observe()
	if state.Phase != machine.PhaseRunning {
		s.Fatalf("after Start: got phase %s (%s), want %s", state.Phase, state.RunState, machine.PhaseRunning)
	}
	if s.Deaf != nil {
		s.Deaf(s.id)
	}
	return state
}

func (s *suite) wantEvent(types ...machine.EventType) {
	s.Helper()
	for e := range s.events {
		if slices.Contains(types, e.Type) {
			if e.ID != s.id || e.At.IsZero() {
				s.Errorf("got event %+v, want machine %s and a time", e, s.id)
			}
			return
		}
	}
	s.Fatalf("got no event of types %v", types)
}

// eventually observes the machine after each event until ok returns true.
func (s *suite) eventually(what string, ok func(machine.State) bool) machine.State {
	s.Helper()
	for {
		state := s.observe()
		if ok(state) {
			return state
		}
		if _, open := <-s.events; !open {
			s.Fatalf("timed out waiting for %s; last state %+v", what, state)
		}
	}
}
