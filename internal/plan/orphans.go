// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// HostMachine is a machine on this host: its process, its directory, or both.
type HostMachine struct {
	ID string
	// Kind, Namespace and Name are those of its object; empty if they are not recorded.
	Kind, Namespace, Name string
	// Retention is that of a target's disks; empty if it is not recorded.
	Retention v1alpha1.DiskRetention
	// Cluster identifies the cluster that had its object; empty if it is not recorded.
	Cluster string
	// HasDisks means that its directory holds disks.
	HasDisks bool
	// Unknown means that its process cannot be determined.
	Unknown bool
}

// The kinds of objects: those that have a machine, and profiles.
const (
	KindServer  = "ProvisioningServer"
	KindTarget  = "BareMetalTarget"
	KindProfile = "BootProfile"
)

// Orphan is a machine without an object.
type Orphan struct {
	HostMachine
	// Since is when it was first seen without an object.
	Since time.Time
	// Retain keeps its disks when it is removed. It stays set, because an orphan that
	// was once one of implausibly many may be the result of an accident.
	Retain bool
	// Held is why it is not removed by itself; empty if it is removed at RemoveAt.
	Held     string
	RemoveAt time.Time
	// Remove means that it is to be removed now.
	Remove bool
}

// OrphanInput is the input of Orphans.
type OrphanInput struct {
	Machines []HostMachine
	// Objects are the UIDs of all servers and targets of the cluster. They must have
	// been read after Machines.
	Objects map[string]bool
	// Namespaces are those that Objects were read from; none means all.
	Namespaces []string
	// Cluster identifies the cluster that Objects were read from.
	Cluster string
	// Known is the previous result, by ID.
	Known map[string]Orphan
	Now   time.Time
	// Grace is how long an orphan is kept; 0 is for ever.
	Grace time.Duration
}

// Orphans returns the machines without an object, by ID, and which of them to remove.
// None is removed by itself if the cluster has no servers and targets at all, or if most
// machines have no object: then objects were probably lost by accident. Machines of
// namespaces that were not read are left alone.
func Orphans(in OrphanInput) []Orphan {
	var orphans []Orphan
	machines := slices.DeleteFunc(slices.Clone(in.Machines), in.otherNamespace)
	for _, m := range machines {
		if in.Objects[m.ID] {
			continue
		}
		o := Orphan{HostMachine: m, Since: in.Now}
		if known, ok := in.Known[m.ID]; ok {
			o.Since = known.Since
			o.Retain = known.Retain
		}
		orphans = append(orphans, o)
	}
	slices.SortFunc(orphans, func(a, b Orphan) int { return cmp.Compare(a.ID, b.ID) })
	implausible := implausibleOrphans(len(orphans), len(machines), len(in.Objects))
	for i := range orphans {
		o := &orphans[i]
		o.Retain = o.HasDisks && (o.Retain || implausible != "" || o.retainsData())
		o.Held = cmp.Or(o.heldBy(in.Cluster), in.unreadNamespace(o.HostMachine), implausible)
		if in.Grace <= 0 {
			o.Held = cmp.Or(o.Held, "the removal of machines without an object is disabled")
		}
		if o.Held == "" {
			o.RemoveAt = o.Since.Add(in.Grace)
			o.Remove = !in.Now.Before(o.RemoveAt)
		}
	}
	return orphans
}

// otherNamespace reports whether the machine's object is in a namespace that was not read.
func (in *OrphanInput) otherNamespace(m HostMachine) bool {
	return len(in.Namespaces) > 0 && m.Namespace != "" && !slices.Contains(in.Namespaces, m.Namespace)
}

// unreadNamespace returns why a machine may have an object nevertheless, or "".
func (in *OrphanInput) unreadNamespace(m HostMachine) string {
	if len(in.Namespaces) > 0 && m.Namespace == "" {
		return "its namespace is not recorded, and the manager does not watch all namespaces"
	}
	return ""
}

// retainsData reports whether the machine's data is kept. Only a record that permits its
// deletion does.
func (m *HostMachine) retainsData() bool {
	switch m.Kind {
	case KindServer:
		return false
	case KindTarget:
		return m.Retention != v1alpha1.RetentionDelete
	default:
		return true
	}
}

// heldBy returns why the machine itself must not be removed, or "".
func (m *HostMachine) heldBy(cluster string) string {
	switch {
	case m.Unknown:
		return "it is not known as which process it runs"
	case m.Cluster != "" && m.Cluster != cluster:
		return "its object was in another cluster, or the cluster's data was lost"
	default:
		return ""
	}
}

// implausibleOrphans returns why so many orphans are probably an accident, or "".
func implausibleOrphans(orphans, machines, objects int) string {
	switch {
	case objects == 0:
		return "the cluster has no ProvisioningServer and no BareMetalTarget, so their objects may have been lost"
	case orphans > 1 && orphans*2 > machines:
		return fmt.Sprintf("%d of %d machines have no object, so their objects may have been lost", orphans, machines)
	default:
		return ""
	}
}
