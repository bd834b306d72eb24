// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"k8s.io/component-base/version"
)

func main() {
	applets := table()
	name, args, err := applets.Select(os.Args, "serve")
	if err == nil && name == "serve" && len(args) == 1 && args[0] == "--version" {
		fmt.Println(versionText())
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// The upstream commands read os.Args themselves.
	os.Args = append([]string{name}, args...)
	os.Exit(applets[name].Run(args))
}

// versionText returns the digest of this program and the version of Kubernetes in
// it. The program is cached by its sources, so a commit would not identify it.
func versionText() string {
	return programDigest() + ", Kubernetes " + version.Get().GitVersion
}

// programDigest returns "sha256:" and the first 12 hexadecimal digits of the
// executable's SHA-256 digest, or "unknown" if the executable cannot be read.
func programDigest() string {
	path, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "unknown"
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))[:12]
}
