// SPDX-License-Identifier: Apache-2.0

//go:build !linux && !darwin

package imagestream

import "os"

func seekData(_ *os.File, at, _ int64) (int64, error) { return at, nil }
