// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"os"
	"strings"
)

// machineID returns the ID of this installation of the system, see machine-id(5); "" if it
// has none, as in most containers.
func machineID() string {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(strings.TrimSpace(string(id))) != 32 {
		return ""
	}
	return strings.TrimSpace(string(id))
}
