// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"os"
	"syscall"
)

func changeTime(st *syscall.Stat_t) int64 { return st.Ctimespec.Nano() }

// reflink is not used: clonefile wants a destination that does not exist yet.
func reflink(_, _ *os.File) bool { return false }
