// SPDX-License-Identifier: Apache-2.0

//go:build linux || darwin

package artifact

import (
	"os"
	"syscall"
	"time"
)

func stampOf(info os.FileInfo) stamp {
	s := stamp{Size: info.Size(), ModTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Inode, s.Device = uint64(st.Ino), uint64(st.Dev)
		s.ChangeTime = changeTime(st)
	}
	return s
}

// stampTime returns the change time of the file, which is when it was renamed
// into the store.
func stampTime(info os.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(0, changeTime(st))
	}
	return info.ModTime()
}
