// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	if printVersion(os.Args) {
		return
	}
	fmt.Fprintln(os.Stderr, "installer: runs only on Linux, as PID 1 of the machine to install")
	os.Exit(2)
}
