// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
)

func main() {
	applets := table()
	name, args, err := applets.Select(os.Args, "serve")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// The upstream commands read os.Args themselves.
	os.Args = append([]string{name}, args...)
	os.Exit(applets[name].Run(args))
}
