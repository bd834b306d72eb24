// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "github.com/pxelab/pxelab/cmd/controlplane/internal/applet"

func nodeApplets() applet.Table { return nil }
