// SPDX-License-Identifier: Apache-2.0

package main

import "os"

// leaseNamespace returns the pod's namespace, or kube-system outside a cluster.
func leaseNamespace() string {
	name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil || len(name) == 0 {
		return "kube-system"
	}
	return string(name)
}
