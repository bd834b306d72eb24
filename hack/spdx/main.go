// SPDX-License-Identifier: Apache-2.0

// Command image writes the SBOM of the manager's container image as an SPDX 2.3
// document in JSON: the Debian packages in dpkg's status file, and the Go programs
// with the modules compiled into them.
//
//	image -name IMAGE -dpkg STATUS -out FILE PROGRAM...
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
)

func main() {
	name := flag.String("name", "", "name of the image")
	status := flag.String("dpkg", "", "copy of the image's /var/lib/dpkg/status")
	out := flag.String("out", "", "file to write the document to")
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
	now, err := created()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(newDocument(name, now, packages), "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(out, append(text, '\n'), 0o644)
}

// created is the document's time of creation: SOURCE_DATE_EPOCH, in seconds, if
// it is set, so that a build can be reproduced, else now.
func created() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0), nil
}
