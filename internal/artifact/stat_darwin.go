// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"os"
	"syscall"
)

func changeTime(st *syscall.Stat_t) int64 { return st.Ctimespec.Nano() }

// reflink is not implemented: clonefile(2) requires that dst does not exist.
func reflink(_, _ *os.File) bool { return false }
