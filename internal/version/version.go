// SPDX-License-Identifier: Apache-2.0

// Package version identifies the running program. Programs for the host report
// the commit that they were built from. Programs for guests report the digest of
// their executable: they are built without the commit, because their digest must
// not change with every commit. It reads no version control itself; the go command
// and the linker record what it reports.
package version

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
)

// tag is set by the linker: to the tag of a release by "make release", to the
// output of "git describe" by "make build". The latter names the commit in a
// worktree too, where the go command records none.
var tag string

// String returns the version of a program for the host: what the linker set or
// else the module version, which is "(devel)" outside a checkout. The commit, its
// time and "modified" for uncommitted changes follow in parentheses, as far as the
// build information contains them and the version does not.
func String() string {
	info, _ := debug.ReadBuildInfo()
	return describe(tag, info)
}

func describe(tag string, info *debug.BuildInfo) string {
	version := tag
	settings := map[string]string{}
	if info != nil {
		if version == "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
	}
	if version == "" {
		version = "(devel)"
	}
	var details []string
	if revision := fmt.Sprintf("%.12s", settings["vcs.revision"]); revision != "" && !strings.Contains(version, revision) {
		details = append(details, "commit "+revision)
	}
	if at := settings["vcs.time"]; at != "" {
		details = append(details, at)
	}
	if settings["vcs.modified"] == "true" && !strings.HasSuffix(version, "dirty") {
		details = append(details, "modified")
	}
	if len(details) == 0 {
		return version
	}
	return version + " (" + strings.Join(details, ", ") + ")"
}

// Digest returns the version of a program for guests: "sha256:" and the first 12
// hexadecimal digits of the executable's SHA-256 digest, or "unknown" if the
// executable cannot be read. It reads the file once.
var Digest = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	digest, err := FileDigest(path)
	if err != nil {
		return "unknown"
	}
	return digest
})

// FileDigest returns what Digest returns in the program of an executable file.
func FileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))[:12], nil
}
