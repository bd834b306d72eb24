// SPDX-License-Identifier: Apache-2.0

package ownership

import "syscall"

// machineID returns the ID of this installation of the system; "" if it has none.
func machineID() string {
	id, err := syscall.Sysctl("kern.uuid")
	if err != nil {
		return ""
	}
	return id
}
