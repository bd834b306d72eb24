// SPDX-License-Identifier: Apache-2.0

// Command image lists what is in the manager's container image, as an SPDX 2.3
// document in JSON: Debian's packages, by dpkg's own status file, and the Go
// programs with the modules that are compiled into them.
//
//	image -name IMAGE -dpkg STATUS -out FILE PROGRAM...
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/google/renameio/v2"
)

func main() {
	name := flag.String("name", "", "the image's name")
	status := flag.String("dpkg", "", "the image's /var/lib/dpkg/status")
	out := flag.String("out", "", "where to write the document")
	flag.Parse()
	if err := run(*name, *status, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(name, status, out string, programs []string) error {
	file, err := os.Open(status)
	if err != nil {
		return err
	}
	defer file.Close()
	packages, err := debianPackages(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", status, err)
	}
	for _, program := range programs {
		modules, err := goModules(program)
		if err != nil {
			return err
		}
		packages = append(packages, modules...)
	}
	text, err := json.MarshalIndent(newDocument(name, time.Now(), packages), "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(out, append(text, '\n'), 0o644)
}
