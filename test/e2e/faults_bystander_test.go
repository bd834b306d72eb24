// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// bystander is a Ready target that a fault must not affect. A simulated one has no boot
// ID.
type bystander struct {
	evidence
	from time.Time
	boot string
}

// bystander returns the state of a target if it is Ready, or nil.
func (x *trial) bystander(name string) *bystander {
	x.Helper()
	if x.target(x, name).Status.Phase != v1alpha1.TargetReady {
		return nil
	}
	b := &bystander{evidence: x.evidence(name), from: time.Now()}
	if simulatedTarget(name) == nil {
		b.boot = x.bootID(name)
	}
	return b
}

// bystanders returns the states of the first target and of the healthy simulated one, of
// those that are Ready.
func (x *trial) bystanders() []*bystander {
	x.Helper()
	all := []*bystander{x.bystander(first), x.bystander(calm)}
	return slices.DeleteFunc(all, func(b *bystander) bool { return b == nil })
}

// untouched checks that the bystanders have stayed Ready, with the same process,
// installation and boot.
func (x *trial) untouched(all ...*bystander) {
	x.Helper()
	for _, b := range all {
		name := b.target.Name
		states, _ := x.w.since("target/"+name, b.from)
		for _, m := range states {
			if p := m.obj.(*v1alpha1.BareMetalTarget).Status.Phase; p != v1alpha1.TargetReady {
				x.Errorf("%s: got phase %s, want it Ready all the time", name, p)
			}
		}
		x.sameMachine(b.evidence)
		x.sameInstallation(b.evidence)
		if b.boot != "" && x.bootID(name) != b.boot {
			x.Errorf("%s: got another boot ID, want no reboot", name)
		}
	}
}

// bootID returns the ID of a guest's current boot.
func (x *trial) bootID(name string) string {
	x.Helper()
	return x.ssh(x, name, "cat /proc/sys/kernel/random/boot_id")
}

// leaveMark writes a file to a target's disk and syncs it.
func (x *trial) leaveMark(name string) string {
	x.Helper()
	mark := fmt.Sprintf("mark-%d", time.Now().UnixNano())
	x.ssh(x, name, "echo "+mark+" | sudo tee /root/mark >/dev/null && sudo sync")
	return mark
}

func (x *trial) findMark(name, mark string) {
	x.Helper()
	if got := x.ssh(x, name, "sudo cat /root/mark"); got != mark {
		x.Errorf("file on the disk of %s: got %q, want %q", name, got, mark)
	}
}
