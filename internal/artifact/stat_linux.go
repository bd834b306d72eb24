// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func changeTime(st *syscall.Stat_t) int64 { return st.Ctim.Nano() }

// reflink makes dst share the blocks of src copy-on-write, if the file system
// supports it, and reports whether it did. A later change of one file does not
// affect the other.
func reflink(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}
