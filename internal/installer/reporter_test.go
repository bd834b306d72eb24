// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pxelab/pxelab/internal/installer/installerapi"
)

// The inventory is sent again until a report with it was accepted, and not afterwards.
func TestReporterSendsHardwareOnce(t *testing.T) {
	reports := make(chan installerapi.Progress)
	refused := errors.New("the server is being restarted")
	results := make(chan error)
	r := NewReporter(func(string) {})
	r.SetHardware(installerapi.Hardware{CPUs: 3})
	r.Start(func(ctx context.Context, p installerapi.Progress) error {
		select {
		case reports <- p:
			return <-results
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	for i, c := range []struct {
		hardware bool
		result   error
	}{{true, refused}, {true, nil}, {false, nil}, {false, nil}} {
		p := <-reports
		if got := p.Hardware != nil; got != c.hardware {
			t.Errorf("report %d: got hardware %+v, want one: %t", i, p.Hardware, c.hardware)
		}
		results <- c.result
	}
	r.Stop()
}

func TestReporterSendsWarningsAtTheEnd(t *testing.T) {
	var last installerapi.Progress
	r := NewReporter(func(string) {})
	r.SetWarnings([]string{"1", "2", "3", "4", "5", "6", "7", "8", "9"})
	r.send = func(_ context.Context, p installerapi.Progress) error {
		last = p
		return nil
	}
	if err := r.Finish(t.Context(), installerapi.StageDone, "installed"); err != nil {
		t.Fatal(err)
	}
	want := installerapi.Progress{Stage: installerapi.StageDone, Message: "installed", Warnings: []string{"1", "2", "3", "4", "5", "6", "7", "8"}}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Errorf("last report (-want +got):\n%s", diff)
	}
}
