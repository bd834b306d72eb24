// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/artifact"
	"github.com/pxelab/pxelab/internal/content"
)

const (
	// fetchSlots is how many artifacts are fetched at a time. A slow download uses
	// little but a connection, so it is far more than a fast one needs; content.Library
	// limits conversions, which use a processor each.
	fetchSlots = 32
	// waitingAfter is how long a fetch may wait before its progress shows it.
	waitingAfter = time.Second
)

// fetchFunc fetches an artifact in the background.
type fetchFunc = task.Func[artifact.Progress, content.Blob]

// inSlot returns work that waits for a slot first; tenant and part share the slots fairly
// with others.
func inSlot(slots *task.Slots, tenant, part string, work fetchFunc) fetchFunc {
	return func(ctx context.Context, report func(artifact.Progress)) (content.Blob, error) {
		waiting := time.AfterFunc(waitingAfter, func() { report(artifact.Progress{Stage: artifact.StageWaiting}) })
		release, err := slots.Acquire(ctx, tenant, part)
		waiting.Stop()
		if err != nil {
			return content.Blob{}, err
		}
		defer release()
		return work(ctx, report)
	}
}
