// SPDX-License-Identifier: Apache-2.0

// Package hostmem finds how much memory this process and its children may use: that of
// the host, or less where a control group limits them. It supports Linux, with control
// groups of version 1 and 2, and macOS.
package hostmem

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// Memory is an amount of memory.
type Memory struct {
	Bytes int64
	// Source names what limits it, for messages: the host, or the file with the limit.
	Source string
}

// linux reads the memory from the files of a Linux host, relative to its root.
func linux(root fs.FS) (Memory, error) {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return Memory{}, fmt.Errorf("reading the host's memory: %w", err)
	}
	total, err := parseMemInfo(string(text))
	if err != nil {
		return Memory{}, err
	}
	least := Memory{total, "the host's memory"}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return least, nil // a kernel without control groups
	}
	if err != nil {
		return Memory{}, fmt.Errorf("reading the control groups of this process: %w", err)
	}
	for _, file := range limitFiles(string(groups)) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			continue // not this version, or a parent that a container does not see
		}
		if limit, ok := parseLimit(string(text)); ok && limit < least.Bytes {
			least = Memory{limit, "/" + file}
		}
	}
	return least, nil
}

// parseMemInfo returns MemTotal of /proc/meminfo in bytes.
func parseMemInfo(text string) (int64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil || kib <= 0 || kib > math.MaxInt64>>10 {
			return 0, fmt.Errorf("/proc/meminfo has the line %q, want a number of kB", strings.TrimSpace(line))
		}
		return kib << 10, nil
	}
	return 0, errors.New("/proc/meminfo has no line MemTotal")
}

// parseLimit returns the limit in a file of a control group in bytes; ok is false if
// there is none.
func parseLimit(text string) (bytes int64, ok bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n, err == nil && n > 0 // "max" is not a number
}

// The directories below which the control groups of both versions are mounted, and their
// files. A group is limited by its parents as well.
const (
	mountV2, fileV2 = "sys/fs/cgroup", "memory.max"
	mountV1, fileV1 = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
)

// limitFiles returns the files that may have a limit for a process with this
// /proc/self/cgroup, relative to the root. In a container, the paths of the groups can
// be those of the host, while the container sees its own group as the root: that is the
// last one.
func limitFiles(groups string) []string {
	var files []string
	for line := range strings.Lines(groups) {
		_, rest, ok := strings.Cut(strings.TrimRight(line, "\n"), ":")
		controllers, group, found := strings.Cut(rest, ":")
		if !ok || !found {
			continue
		}
		if strings.Contains(group, "..") {
			group = "/" // outside of the container's own group, which is all that it sees
		}
		switch {
		case controllers == "":
			files = append(files, upwards(mountV2, group, fileV2)...)
		case hasController(controllers, "memory"):
			files = append(files, upwards(mountV1, group, fileV1)...)
		}
	}
	return files
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// upwards returns a file of a group and of all its parents.
func upwards(mount, group, file string) []string {
	var files []string
	for dir := path.Join("/", group); ; dir = path.Dir(dir) {
		files = append(files, path.Join(mount, dir, file))
		if dir == "/" {
			return files
		}
	}
}
