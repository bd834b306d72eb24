// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/pxelab/pxelab/internal/installer"
)

func main() {
	// It would write to the first disk it finds.
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "installer: runs only as PID 1 of a machine that is to be installed")
		os.Exit(2)
	}
	installer.Main()
}
