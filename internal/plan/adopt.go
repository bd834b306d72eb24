// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/targetdisk"
)

// Retained are the disks of a deleted target.
type Retained struct {
	// Dir is their directory.
	Dir string
	// Kind, Namespace, Name and UID are those of the deleted object.
	Kind, Namespace, Name, UID string
	// Disks are the names of the disks, and Sizes those of their files in bytes; -1 is a
	// missing one.
	Disks []string
	Sizes []int64
	// Architecture, Runner, MAC and Address are those of the deleted target; empty if they
	// are not recorded.
	Architecture, Runner, MAC, Address string
	Record                             targetdisk.Record
}

// RetainedSource returns the source.retained of a target's disks, which is the same for all
// of them; "" if they are blank.
func RetainedSource(t *v1alpha1.BareMetalTarget) string {
	for _, d := range t.Spec.Machine.Disks {
		if d.Source != nil {
			return d.Source.Retained
		}
	}
	return ""
}

// AwaitsAdoption reports whether a target has not adopted the disks yet that it declares.
// Blank ones must not be created in their place.
func AwaitsAdoption(t *v1alpha1.BareMetalTarget, r targetdisk.Record) bool {
	return RetainedSource(t) != "" && r.Origin == nil
}

// Adoptable returns which of the retained disks of this host a target adopts. user is the
// existing target to which the disks belong, "" if there is none. Disks of other namespaces
// do not exist for the target.
func Adoptable(t *v1alpha1.BareMetalTarget, all []Retained, user string) (Retained, *InvalidError) {
	want := RetainedSource(t)
	var byName []Retained
	for _, r := range all {
		switch {
		case r.Kind != KindTarget || r.Namespace != t.Namespace:
		case r.UID == want:
			return r, checkAdoption(t, r)
		case r.Name == want:
			byName = append(byName, r)
		}
	}
	switch {
	case len(byName) == 1:
		return byName[0], checkAdoption(t, byName[0])
	case len(byName) > 1:
		var uids []string
		for _, r := range byName {
			uids = append(uids, r.UID)
		}
		slices.Sort(uids)
		return Retained{}, invalid(v1alpha1.ReasonNoRetainedDisks, "disks of several deleted targets %s are retained; "+
			"create the target again with one of their UIDs as source.retained: %s", want, strings.Join(uids, ", "))
	case user != "":
		return Retained{}, invalid(v1alpha1.ReasonRetainedDisksInUse, "the disks of source.retained %s are those of the existing target %s; "+
			"delete it with spec.diskRetention Retain", want, user)
	}
	return Retained{}, invalid(v1alpha1.ReasonNoRetainedDisks, "there are no retained disks of a deleted target %s in namespace %s, "+
		"or another target has adopted them; make status lists retained disks", want, t.Namespace)
}

// checkAdoption checks that retained disks are those that a target declares.
func checkAdoption(t *v1alpha1.BareMetalTarget, r Retained) *InvalidError {
	m := t.Spec.Machine
	mismatch := func(format string, args ...any) *InvalidError {
		return invalid(v1alpha1.ReasonRetainedDisksMismatch, "the disks of the deleted target %s (%s) cannot be adopted: %s; create another target",
			r.Name, r.UID, fmt.Sprintf(format, args...))
	}
	var declared []string
	for _, d := range m.Disks {
		declared = append(declared, string(d.Name))
	}
	switch {
	case len(r.Disks) == 0:
		return mismatch("their names are not recorded")
	case !slices.Equal(declared, r.Disks):
		return mismatch("they are %s, and spec.machine.disks are %s", strings.Join(r.Disks, ", "), strings.Join(declared, ", "))
	case r.Architecture != string(m.Architecture):
		return mismatch("they are of a machine of architecture %s, not %s", r.Architecture, m.Architecture)
	case r.Runner != string(m.Runner):
		return mismatch("they are of a machine of runner %s, not %s", r.Runner, m.Runner)
	case r.Record.Generation == 0:
		return mismatch("it is not recorded what they hold")
	}
	for i, d := range m.Disks {
		declared := targetdisk.Disk{Size: d.Size.Value()}.FileSize()
		switch {
		case r.Sizes[i] < 0:
			return mismatch("the file of disk %s is missing", d.Name)
		case r.Sizes[i] > declared:
			return mismatch("disk %s has %d bytes, more than its declared size of %d; declare at least its size", d.Name, r.Sizes[i], declared)
		}
	}
	return nil
}

// AdoptionStatus returns the status of adopted disks, nil if the target's are its own.
func AdoptionStatus(r targetdisk.Record) *v1alpha1.Adoption {
	o := r.Origin
	if o == nil {
		return nil
	}
	return &v1alpha1.Adoption{Retained: o.Retained, UID: o.UID, Attempt: o.Attempt, MAC: o.MAC, Address: o.Address}
}
