// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/pxelab/pxelab/internal/ownership"
)

// leaseNamespace returns the pod's namespace, or the default outside a cluster.
func leaseNamespace() string {
	name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil || len(name) == 0 {
		return ownership.DefaultNamespace
	}
	return string(name)
}

// namespacesFlag adds the flag of the namespaces that the manager watches.
func namespacesFlag(o *options) {
	flag.Func("watch-namespaces",
		"comma-separated namespaces whose objects the manager works on, so that it needs no permission in others (default all)",
		func(text string) error {
			for name := range strings.SplitSeq(text, ",") {
				if reasons := validation.IsDNS1123Label(name); len(reasons) > 0 {
					return fmt.Errorf("%q is not the name of a namespace: %s", name, strings.Join(reasons, "; "))
				}
				o.namespaces = append(o.namespaces, name)
			}
			slices.Sort(o.namespaces)
			o.namespaces = slices.Compact(o.namespaces)
			return nil
		})
}
