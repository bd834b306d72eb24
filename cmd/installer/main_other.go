// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "installer: runs only on Linux, as PID 1 of a machine that is to be installed")
	os.Exit(2)
}
