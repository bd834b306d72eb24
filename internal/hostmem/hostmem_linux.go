// SPDX-License-Identifier: Apache-2.0

package hostmem

import "os"

// Limit returns how much memory this process and its children may use.
func Limit() (Memory, error) { return linux(os.DirFS("/")) }
