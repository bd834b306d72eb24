// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"

	"github.com/pxelab/pxelab/internal/machine"
	"github.com/pxelab/pxelab/internal/paths/pathstest"
)

// TestLookup holds the search of one architecture. Others are found meanwhile, and
// those that wait share one search or give up.
func TestLookup(t *testing.T) {
	l, err := New(Options{DataDir: t.TempDir(), RuntimeDir: pathstest.Short(t), Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var k lookup[string]
	var searches atomic.Int32
	gate := make(chan error)
	find := func(ctx context.Context) (string, error) {
		searches.Add(1)
		select {
		case err := <-gate:
			return "found", err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	get := func(ctx context.Context) chan error {
		result := make(chan error, 1)
		go func() {
			_, err := k.get(ctx, l, machine.X8664, find)
			result <- err
		}()
		return result
	}
	impatient, cancel := context.WithCancel(t.Context())
	first, second := get(t.Context()), get(impatient)
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
	other, err := k.get(t.Context(), l, machine.AArch64, func(context.Context) (string, error) { return "other", nil })
	if err != nil || other != "other" {
		t.Errorf("other architecture: got %q, %v", other, err)
	}
	failure := errors.New("no such program")
	gate <- failure
	if err := <-first; !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
	third, fourth := get(t.Context()), get(t.Context())
	gate <- nil
	if err := errors.Join(<-third, <-fourth); err != nil {
		t.Error(err)
	}
	if n := searches.Load(); n != 2 {
		t.Errorf("got %d searches, want 2: one that failed and one that succeeded", n)
	}
}
