// SPDX-License-Identifier: Apache-2.0

// Command fakeqemu is the fake of QEMU's program that qemutest.BuildProgram installs.
// It runs under the names of QEMU's programs only.
package main

import (
	"fmt"
	"os"

	"github.com/pxelab/pxelab/internal/qemu/qemutest"
)

func main() {
	qemutest.RunProgram()
	fmt.Fprintln(os.Stderr, "fakeqemu: start it by the name of a QEMU program, as qemutest.BuildProgram does")
	os.Exit(2)
}
