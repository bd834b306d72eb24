// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"time"
)

// Limits bound what machines use at a time. 0 means no limit.
type Limits struct {
	// Memory is the budget in bytes of all machines, with their overhead.
	Memory int64
	// Installations is the number of targets that are installed.
	Installations int
	// NamespaceTargets, NamespaceMemory and NamespaceInstallations bound the powered-on
	// targets, the memory and the installations of each namespace.
	NamespaceTargets       int
	NamespaceMemory        int64
	NamespaceInstallations int
}

// Check refuses negative limits. The error names the manager's flag.
func (l Limits) Check() error {
	for flag, value := range map[string]int64{
		"memory-budget": l.Memory, "max-installations": int64(l.Installations), "namespace-max-targets": int64(l.NamespaceTargets),
		"namespace-max-memory": l.NamespaceMemory, "namespace-max-installations": int64(l.NamespaceInstallations),
	} {
		if value < 0 {
			return fmt.Errorf("--%s=%d is negative; use a positive limit, or 0 for none", flag, value)
		}
	}
	return nil
}

// Demand is what a machine needs of the host in order to run.
type Demand struct {
	// UID is that of the machine and of its object.
	UID string
	// Kind, Namespace and Name are those of its object.
	Kind, Namespace, Name string
	// Memory is what its process can take in bytes, with its overhead.
	Memory int64
	// Installing means that the machine is installed.
	Installing bool
	// Since is when the object started to wait, and CreatedAt when it was created. They
	// order what waits.
	Since, CreatedAt time.Time
}

// Use is what machines use.
type Use struct {
	Memory int64
	// ServerMemory is the part of Memory that servers use.
	ServerMemory  int64
	Installations int
	// Targets is the number of targets, Machines that of all machines.
	Targets, Machines int
}

func (u Use) plus(o Use) Use {
	return Use{
		u.Memory + o.Memory, u.ServerMemory + o.ServerMemory, u.Installations + o.Installations, u.Targets + o.Targets, u.Machines + o.Machines,
	}
}

func (u Use) minus(o Use) Use {
	return Use{
		u.Memory - o.Memory, u.ServerMemory - o.ServerMemory, u.Installations - o.Installations, u.Targets - o.Targets, u.Machines - o.Machines,
	}
}

// use returns what the machine of a demand uses.
func (d Demand) use() Use {
	u := Use{Memory: d.Memory, Machines: 1}
	if d.Installing {
		u.Installations = 1
	}
	switch d.Kind {
	case KindTarget:
		u.Targets = 1
	case KindServer:
		u.ServerMemory = d.Memory
	}
	return u
}

// within returns the demand, reduced to the memory that the limits allow. A machine that
// can never run is refused before it asks; but one whose accelerator is not known counts
// as emulated, and can run although that much would never be free.
func (d Demand) within(l Limits) Demand {
	for _, limit := range []int64{l.Memory, l.NamespaceMemory} {
		if limit > 0 {
			d.Memory = min(d.Memory, limit)
		}
	}
	return d
}

// compare orders demands of one namespace: by the time they wait, then by age.
func (d Demand) compare(o Demand) int {
	return cmp.Or(d.Since.Compare(o.Since), d.CreatedAt.Compare(o.CreatedAt), cmp.Compare(d.UID, o.UID))
}
