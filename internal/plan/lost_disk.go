// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// DecideDisks decides whether to replace a target's disks with blank ones. An
// installed system is wiped only when the server has received everything that
// replaces it. A disk that was deleted before an installation was complete is created
// again for another attempt. One that was deleted later held a system, so that only the
// user can decide what replaces it.
func DecideDisks(t *v1alpha1.BareMetalTarget, o DiskObservation) DiskDecision {
	d := decideDisks(t, o)
	held := o.Record.Installed || o.Done
	if held && o.Missing != "" && d.Prepare == (targetdisk.Attempt{}) && d.Blocker.Reason == "" && t.Spec.Power != v1alpha1.PowerOff {
		d.Blocker = lostDisk(o)
	}
	return d
}

// lostDisk returns the blocker of a target that has lost a disk with an installed system.
func lostDisk(o DiskObservation) Blocker {
	message := fmt.Sprintf("disk %s of the installed system does not exist; restore the file, "+
		"or raise spec.installGeneration to install the target again", o.Missing)
	if o.Alive {
		message += "; the machine runs from the deleted file, whose content is lost when the machine is powered off"
	}
	return Blocker{Reason: v1alpha1.ReasonDiskMissing, Message: message, Terminal: true}
}
