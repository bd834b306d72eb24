// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// SetAside renames a damaged file, replaces an earlier one of the new name, and makes it
// private. Its modification time becomes the current time, from which its age counts.
func SetAside(path, to string) error {
	now := time.Now()
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("setting aside a damaged file: %w", err)
	}
	if err := errors.Join(os.Chmod(to, 0o600), os.Chtimes(to, now, now)); err != nil {
		return fmt.Errorf("setting aside a damaged file: %w", err)
	}
	return nil
}
