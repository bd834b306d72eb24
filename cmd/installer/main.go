// SPDX-License-Identifier: Apache-2.0

// Command installer is what a machine runs as PID 1 (rdinit=/pxelab-installer)
// to get an image onto its disk; see package installer.
package main
