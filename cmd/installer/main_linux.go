// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/pxelab/pxelab/internal/installer"
)

func main() {
	// As PID 1 it ignores its arguments: the kernel passes unknown parameters to it.
	// As any other process it would write to the first disk of a running host.
	if os.Getpid() != 1 {
		if printVersion(os.Args) {
			return
		}
		fmt.Fprintln(os.Stderr, "installer: runs only as PID 1 of the machine to install")
		os.Exit(2)
	}
	installer.Main()
}
