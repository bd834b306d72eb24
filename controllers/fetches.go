// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"runtime"
	"time"

	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
)

const (
	// fetchSlots is how many artifacts are fetched at a time. A slow download uses
	// little but a connection, so it is far more than a fast one needs.
	fetchSlots = 32
	// waitingAfter is how long a fetch may wait before its progress shows it.
	waitingAfter = time.Second
)

// fetchFunc fetches an artifact in the background.
type fetchFunc = task.Func[artifact.Progress, content.Blob]

// workSlots limit what fetches do at a time: downloads, and conversions of images, which
// keep a processor busy for minutes each.
type workSlots struct{ fetches, conversions *task.Slots }

func newWorkSlots() workSlots {
	return workSlots{task.NewSlots(fetchSlots), task.NewSlots(runtime.NumCPU() / 2)}
}

// inSlot returns work that waits for a slot first, and for another one before it converts an
// image; tenant and part share the slots fairly with others.
func inSlot(slots workSlots, tenant, part string, work fetchFunc) fetchFunc {
	return func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
		waiting := time.AfterFunc(waitingAfter, func() { report(artifact.Progress{Stage: artifact.StageWaiting}) })
		release, err := slots.fetches.Acquire(ctx, tenant, part)
		waiting.Stop()
		if err != nil {
			return content.Blob{}, err
		}
		defer release()
		ctx = content.WithTurn(ctx, func(ctx context.Context) (func(), error) { return slots.conversions.Acquire(ctx, tenant, part) })
		return work(ctx, report)
	}
}
