// SPDX-License-Identifier: Apache-2.0

// Package bootconfig renders what a machine fetches while it boots: the iPXE
// script, the installer plan and the cloud-init files. It is pure: the manager
// checks exactly what netbootd serves.
package bootconfig
