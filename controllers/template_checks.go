// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/controllers/internal/task"
	"github.com/pxelab/pxelab/internal/bootconfig"
)

// templateWorkers is how many targets' templates are rendered at a time: one for the
// slow templates of a profile, one for other profiles of its namespace, and one for
// other namespaces.
const templateWorkers = 3

// templateChecks renders targets' templates in the background and keeps one verdict
// for each target, for the input that it was made of. It is safe for concurrent use.
type templateChecks struct {
	tasks *task.Group[struct{}, string]
	slots *task.Slots
	check func(context.Context, bootconfig.Input) error
}

// newTemplateChecks returns checks by the given function. wake is called with the UID
// of a target whose verdict is there. The caller must call Close.
func newTemplateChecks(
	check func(context.Context, bootconfig.Input) error, wake func(uid string),
) *templateChecks {
	return &templateChecks{
		tasks: task.NewGroup[struct{}, string](task.Options{
			Wake:    func(key string) { wake(ownerOf(key)) },
			Backoff: 10 * time.Second, MaxBackoff: 10 * time.Minute,
		}),
		slots: task.NewSlots(templateWorkers),
		check: check,
	}
}

// verdict returns what is wrong with a target's rendered templates; "" for nothing.
// checked is false while they are being rendered. A verdict that depends on the speed
// of the host is made again after a pause.
func (c *templateChecks) verdict(t *v1alpha1.BareMetalTarget, in bootconfig.Input) (problem string, checked bool) {
	namespace, profile := t.Namespace, t.Spec.BootProfileRef.Name
	status := c.tasks.Run(taskKey(t.UID, "templates"), bootconfig.CheckKey(in), func(ctx context.Context, _ func(struct{})) (string, error) {
		release, err := c.slots.Acquire(ctx, namespace, profile)
		if err != nil {
			return "", err
		}
		defer release()
		err = c.check(ctx, in)
		var slow interface{ Timeout() bool }
		switch {
		case err == nil:
			return "", nil
		case ctx.Err() != nil, errors.As(err, &slow) && slow.Timeout():
			return "", err
		}
		return clip(err.Error(), maxMessage), nil
	})
	switch {
	case status.Done:
		return status.Result, true
	case status.Err != nil:
		return clip(status.Err.Error(), maxMessage), true
	}
	return "", false
}

// forget drops the verdict of a target that is gone.
func (c *templateChecks) forget(uid types.UID) { c.tasks.Forget(taskKey(uid, "templates")) }

// Close cancels all renderings and waits for them.
func (c *templateChecks) Close() { c.tasks.Close() }
