// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package apiserver

import (
	"errors"
	"fmt"
)

// Shield returns errors.ErrUnsupported: it requires Linux.
func (s *Server) Shield(string) error {
	return fmt.Errorf("shielding the netboot API: %w on this system", errors.ErrUnsupported)
}
