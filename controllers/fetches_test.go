// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
)

// Downloads that never end leave room for those of other namespaces, and show that they
// wait.
func TestFetchesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		slots := task.NewSlots(fetchSlots)
		var running, waiting atomic.Int64
		stuck := func(ctx context.Context, _ func(artifact.Progress)) (content.Blob, error) {
			running.Add(1)
			<-ctx.Done()
			return content.Blob{}, ctx.Err()
		}
		const started = 2 * fetchSlots
		ended := make(chan error, started)
		for i := range started {
			work := inSlot(slots, "hostile", fmt.Sprint("profile-", i), stuck)
			go func() {
				_, err := work(ctx, func(p artifact.Progress) {
					if p.Stage == artifact.StageWaiting {
						waiting.Add(1)
					}
				})
				ended <- err
			}()
			synctest.Wait()
		}
		time.Sleep(2 * waitingAfter)
		synctest.Wait()
		if r, w := running.Load(), waiting.Load(); r != fetchSlots-1 || w != started-r {
			t.Errorf("got %d downloads that run and %d that show that they wait, want %d and %d", r, w, fetchSlots-1, started-fetchSlots+1)
		}
		want := content.Blob{Digest: "d", Size: 1}
		got, err := inSlot(slots, "other", "profile", func(context.Context, func(artifact.Progress)) (content.Blob, error) {
			return want, nil
		})(ctx, func(artifact.Progress) {})
		if got != want || err != nil {
			t.Errorf("a download of another namespace: got %+v, error %v, want %+v at once", got, err, want)
		}
		cancel()
		for range started {
			if err := <-ended; err == nil {
				t.Error("a cancelled download: got no error, want one")
			}
		}
	})
}
