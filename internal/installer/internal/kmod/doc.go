// SPDX-License-Identifier: Apache-2.0

// Package kmod finds and loads kernel modules without modprobe. It reads the
// files that depmod wrote to /lib/modules/RELEASE, as text or, since some
// initrds have only those, in binary form. It finds the modules for a modalias
// and inserts them with their dependencies.
//
// It does not run the "install" commands of modprobe.d: those are shell commands,
// and the installer cannot rely on a shell.
package kmod
