// SPDX-License-Identifier: Apache-2.0

package hostmem

import (
	"strings"
	"testing"
	"testing/fstest"
)

const memInfo = "MemTotal:       25276284 kB\nMemFree:        19121000 kB\n"

func TestLinux(t *testing.T) {
	const total = 25276284 << 10
	for name, c := range map[string]struct {
		files map[string]string
		bytes int64
		from  string
	}{
		"no control groups": {bytes: total, from: "the host's memory"},
		"version 2 without a limit": {
			files: map[string]string{"proc/self/cgroup": "0::/user.slice\n", "sys/fs/cgroup/user.slice/memory.max": "max\n"},
			bytes: total, from: "the host's memory",
		},
		"version 2": {
			files: map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "8589934592\n"},
			bytes: 8 << 30, from: "/sys/fs/cgroup/a/b/memory.max",
		},
		"version 2, a parent's limit is lower": {
			files: map[string]string{
				"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "8589934592\n", "sys/fs/cgroup/a/memory.max": "1073741824\n",
			},
			bytes: 1 << 30, from: "/sys/fs/cgroup/a/memory.max",
		},
		"version 2 in a container": {
			files: map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "8589934592\n"},
			bytes: 8 << 30, from: "/sys/fs/cgroup/memory.max",
		},
		"version 2 in a container whose process is in another group": {
			files: map[string]string{"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.max": "8589934592\n"},
			bytes: 8 << 30, from: "/sys/fs/cgroup/memory.max",
		},
		"version 1 in a container that sees the host's paths": {
			files: map[string]string{
				"proc/self/cgroup":                           "5:cpu,cpuacct:/kubepods/x\n4:memory:/kubepods/x\n",
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n",
			},
			bytes: 4 << 30, from: "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		},
		"version 1 without a limit": {
			files: map[string]string{
				"proc/self/cgroup": "4:memory:/x\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
			},
			bytes: total, from: "the host's memory",
		},
		"a limit above the host's memory": {
			files: map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1099511627776\n"},
			bytes: total, from: "the host's memory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{"proc/meminfo": {Data: []byte(memInfo)}}
			for name, text := range c.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := linux(root)
			if err != nil {
				t.Fatal(err)
			}
			if want := (Memory{c.bytes, c.from}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestLinuxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "no line MemTotal",
		"MemTotal: many kB\n":                 "want a number",
		"MemTotal: -1 kB\n":                   "want a number",
		"MemTotal: 99999999999999999999 kB\n": "want a number",
		"MemTotal: 9223372036854775807 kB\n":  "want a number",
	} {
		_, err := linux(fstest.MapFS{"proc/meminfo": {Data: []byte(text)}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want one with %q", text, err, want)
		}
	}
	if _, err := linux(fstest.MapFS{}); err == nil {
		t.Error("got no error without /proc/meminfo, want one")
	}
}

// This host has memory.
func TestLimit(t *testing.T) {
	got, err := Limit()
	if err != nil || got.Bytes < 64<<20 || got.Source == "" {
		t.Errorf("got %+v, error %v; want at least 64 MiB and its source", got, err)
	}
}

// Whatever the files contain, the result is positive and no path leaves the file system
// of the control groups.
func FuzzLinux(f *testing.F) {
	f.Add(memInfo, "0::/a/b\n4:memory:/x\n", "max\n")
	f.Add("MemTotal: 1 kB\n", "::\n4:memory\n0::../..\n", "-1\n")
	f.Fuzz(func(t *testing.T, info, groups, limit string) {
		for _, file := range limitFiles(groups) {
			if !strings.HasPrefix(file, "sys/fs/cgroup/") {
				t.Errorf("got the file %s, want one of a control group", file)
			}
		}
		root := fstest.MapFS{
			"proc/meminfo": {Data: []byte(info)}, "proc/self/cgroup": {Data: []byte(groups)}, "sys/fs/cgroup/memory.max": {Data: []byte(limit)},
		}
		if got, err := linux(root); err == nil && (got.Bytes <= 0 || got.Source == "") {
			t.Errorf("got %+v, want a positive size and its source", got)
		}
	})
}
