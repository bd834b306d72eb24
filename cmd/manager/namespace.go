// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

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
