// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"runtime"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pxelab/pxelab/internal/hostmem"
	"github.com/pxelab/pxelab/internal/plan"
)

// limitFlags adds the flags of what machines use at a time.
func limitFlags(o *options) {
	size := func(name, usage string, to func(bytes int64)) {
		flag.Func(name, usage, func(text string) error {
			q, err := resource.ParseQuantity(text)
			if err == nil {
				to(q.Value())
			}
			return err
		})
	}
	size("memory-budget", "memory that all machines take together, with QEMU's overhead, such as 24Gi; 0 means no limit "+
		"(default: the host's or the control group's memory without an eighth)", func(bytes int64) {
		o.limits.Memory, o.budget = bytes, "--memory-budget"
	})
	flag.IntVar(&o.limits.Installations, "max-installations", plan.DefaultInstallations(runtime.GOMAXPROCS(0)),
		"targets that are installed at a time; 0 means no limit")
	flag.IntVar(&o.limits.NamespaceTargets, "namespace-max-targets", 0, "targets of a namespace that are powered on at a time; 0 means no limit")
	size("namespace-max-memory", "memory that the machines of a namespace take together, with QEMU's overhead; 0 means no limit (default 0)",
		func(bytes int64) { o.limits.NamespaceMemory = bytes })
	flag.IntVar(&o.limits.NamespaceInstallations, "namespace-max-installations", 0, "targets of a namespace that are installed at a time; 0 means no limit")
}

// defaultBudget sets the memory budget from the host, unless the flag has set it.
func defaultBudget(o *options) error {
	if o.budget != "" {
		return nil
	}
	memory, err := hostmem.Limit()
	if err != nil {
		return fmt.Errorf("%w; set --memory-budget", err)
	}
	o.limits.Memory, o.budget = plan.MemoryBudget(memory.Bytes), memory.Source
	return nil
}
