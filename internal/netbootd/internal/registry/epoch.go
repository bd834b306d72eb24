// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Admit accepts the epoch of a manager that requests a change. The error is ErrFenced for
// one that is lower than the highest before. Epoch 0, that of a manager which sends none,
// is accepted only while no other has been seen.
func (r *Registry) Admit(epoch int64) error {
	if epoch < r.epoch {
		return fmt.Errorf("%w: its epoch is %d, this one is %d", netbootapi.ErrFenced, r.epoch, epoch)
	}
	r.epoch = epoch
	return nil
}

// Epoch returns the highest epoch that was admitted.
func (r *Registry) Epoch() int64 { return r.epoch }
