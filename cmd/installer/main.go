// SPDX-License-Identifier: Apache-2.0

// Command installer writes an image to the disk of the machine on which it runs
// as PID 1 (rdinit=/pxelab-installer); see package installer.
package main

import (
	"fmt"

	"github.com/pxelab/pxelab/internal/version"
)

// printVersion prints the version if --version is the only argument, and reports
// whether it did.
func printVersion(args []string) bool {
	if len(args) != 2 || args[1] != "--version" {
		return false
	}
	fmt.Println(version.Digest())
	return true
}
